// The live region of the page, which screen readers read aloud.

const region = document.getElementById("status");

/** Let screen readers read `text` aloud as soon as they have finished their current text. */
export function announce(text) {
  if (region.textContent !== text) region.textContent = text;
}
