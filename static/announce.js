// The page's one live region: polite, and told only of changes worth interrupting for.

const region = document.getElementById("status");

export function announce(text) {
  if (region.textContent !== text) region.textContent = text;
}
