// Compares two pictures of the same size. One picture covers the other up to an edge, and the user can move the edge.

import { el } from "/static/element.js";

/**
 * Lay the picture in `file` over the image `after`, which is in `frame`. The picture covers the image only to the left
 * of an edge. A slider moves this edge. Nothing changes if the browser cannot show one of the pictures (such as a HEIC
 * or a TIFF), or if the sizes of the pictures differ.
 */
export async function compare(frame, after, file) {
  const url = URL.createObjectURL(file);
  const before = el("img", { src: url, alt: "The source, for comparison" });
  try {
    await Promise.all([before.decode(), after.decode()]);
  } catch {
    return;
  } finally {
    URL.revokeObjectURL(url);
  }
  if (before.naturalWidth !== after.naturalWidth || before.naturalHeight !== after.naturalHeight) return;
  // This class changes the width of the image, so it is added before the width is read below.
  frame.closest(".result").classList.add("has-comparison");
  const stack = el("div", { class: "comparison" });
  const view = el("div", { class: "comparison-view" }, stack);
  frame.replaceChildren(view);
  stack.append(after, caption("after"), el("div", { class: "comparison-before" }, before, caption("before")),
    el("span", { class: "comparison-edge", "aria-hidden": "true" }), edgeSlider(stack));
  // Noise is hard to see in a picture that is scaled down, so a button shows the picture in its actual size.
  if (after.naturalWidth > after.width) frame.append(actualPixelsButton(view, after));
}

const caption = (text) => el("span", { class: `comparison-caption is-${text}`, "aria-hidden": "true" }, text);

function edgeSlider(stack) {
  const update = () => {
    stack.style.setProperty("--edge", `${edge.value}%`);
    edge.setAttribute("aria-valuetext", `source in the left ${edge.value} %, result in the rest`);
  };
  let start = 50;
  const edge = el("input", {
    type: "range", min: 0, max: 100, value: start, "aria-label": "Edge between before and after", on: {
      input: update,
      pointerdown: () => { start = edge.value; },
      pointercancel: () => { edge.value = start; update(); }, // the touch became a scroll, so the edge moves back
    },
  });
  update();
  return edge;
}

// A button that switches to the actual size and back. In the actual size, one pixel of the picture takes one pixel of
// the screen. The picture is then larger than its view, and the view shows the middle first.
function actualPixelsButton(view, picture) {
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
