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
  frame.replaceChildren(stack);
  stack.append(after, word("after"), el("div", { class: "comparison-before" }, before, word("before")),
    el("span", { class: "comparison-edge", "aria-hidden": "true" }), slider(stack));
  if (after.naturalWidth > after.width) frame.append(magnifier(stack)); // scaled down, a picture hides its noise
}

const word = (text) => el("span", { class: `comparison-word is-${text}`, "aria-hidden": "true" }, text);

function slider(stack) {
  const move = () => {
    stack.style.setProperty("--edge", `${edge.value}%`);
    edge.setAttribute("aria-valuetext", `source in the left ${edge.value} %, result in the rest`);
  };
  const edge = el("input", { type: "range", min: 0, max: 100, value: 50, "aria-label": "Edge between before and after", on: { input: move } });
  move();
  return edge;
}

function magnifier(stack) {
  const button = el("button", {
    type: "button", class: "tool", "aria-pressed": "false", on: {
      click: () => button.setAttribute("aria-pressed", stack.classList.toggle("is-actual")),
    },
  }, "Actual pixels");
  return button;
}
