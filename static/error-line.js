// The error message below a form control.

import { el, fill, prose } from "/static/element.js";

/**
 * Create an error line, which is empty and hidden at first. Returns {node, show(detail), add(detail), clear()}. `show`
 * replaces the message, and `add` appends to the message. Both functions also open every <details> element around the
 * line. While the line shows a message, `control` is marked as invalid.
 */
export function errorLine(id, control = null) {
  const node = el("p", { class: "field-error", id, hidden: true });
  let shown = "";
  const show = (detail) => {
    shown = detail;
    fill(node, prose(detail));
    node.hidden = false;
    control?.setAttribute("aria-invalid", "true");
    for (let fold = node.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
  };
  const add = (detail) => show([shown, detail].filter(Boolean).join(" · "));
  const clear = () => {
    node.hidden = true;
    shown = "";
    fill(node);
    control?.removeAttribute("aria-invalid");
  };
  return { node, show, add, clear };
}
