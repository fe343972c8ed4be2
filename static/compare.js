// Before and after: two pictures of one size in one place, and an edge between them to move.

import { el } from "/static/element.js";

/**
 * Lay the picture in `file` over `after`, an image in `frame`, left of an edge that a slider moves. Nothing changes where the
 * browser cannot show one of them (HEIC, TIFF), or where they differ in size.
 */
export async function compare(frame, after, file) {
  const url = URL.createObjectURL(file);
  const before = el("img", { src: url, alt: "The source, to compare with" });
  try {
    await Promise.all([before.decode(), after.decode()]);
  } catch {
    return;
  } finally {
    URL.revokeObjectURL(url);
  }
  if (before.naturalWidth !== after.naturalWidth || before.naturalHeight !== after.naturalHeight) return;
  frame.closest(".result").classList.add("has-comparison"); // which says how wide the picture is shown
  const stack = el("div", { class: "comparison" });
  const view = el("div", { class: "comparison-view" }, stack);
  frame.replaceChildren(view);
  stack.append(after, word("after"), el("div", { class: "comparison-before" }, before, word("before")),
    el("span", { class: "comparison-edge", "aria-hidden": "true" }), slider(stack));
  if (after.naturalWidth > after.width) frame.append(magnifier(view, after)); // scaled down, a picture hides its noise
}

const word = (text) => el("span", { class: `comparison-word is-${text}`, "aria-hidden": "true" }, text);

function slider(stack) {
  const move = () => {
    stack.style.setProperty("--edge", `${edge.value}%`);
    edge.setAttribute("aria-valuetext", `source in the left ${edge.value} %, result in the rest`);
  };
  let start = 50;
  const edge = el("input", {
    type: "range", min: 0, max: 100, value: start, "aria-label": "Edge between before and after", on: {
      input: move,
      pointerdown: () => { start = edge.value; },
      // The finger was there to scroll.
      pointercancel: () => { edge.value = start; move(); },
    },
  });
  move();
  return edge;
}

/** A button that shows each pixel of the picture as one of the screen, in a view that scrolls over it from its middle. */
function magnifier(view, picture) {
  const button = el("button", {
    type: "button", class: "tool", "aria-pressed": "false", on: {
      click: () => {
        view.style.setProperty("--actual", `${picture.naturalWidth / devicePixelRatio}px`);
        button.setAttribute("aria-pressed", view.classList.toggle("is-actual"));
        view.scrollTo((view.scrollWidth - view.clientWidth) / 2, (view.scrollHeight - view.clientHeight) / 2);
      },
    },
  }, "Actual pixels");
  return button;
}
