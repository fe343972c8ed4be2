// Shows faults at a form field that the HTML of the page contains.

import { errorLine } from "/static/error-line.js";

/**
 * Add an error line to the element with the class `field` around `control`. The message disappears when the user
 * changes the field. `control` is one control, or the element around several controls. Returns
 * {node, fail(detail), clear(), focus()}. `fail` shows the message and returns the field.
 */
export function markedField(control) {
  const node = control.closest(".field");
  const isGroup = node.matches("fieldset");
  const error = errorLine(`${control.id}-error`, isGroup ? null : control); // a group cannot be marked as invalid
  node.append(error.node);
  const described = isGroup ? node : control;
  described.setAttribute("aria-describedby", [error.node.id, described.getAttribute("aria-describedby")].filter(Boolean).join(" "));
  node.addEventListener("input", error.clear);
  const self = {
    node,
    fail: (detail) => { error.add(detail); return self; },
    clear: error.clear,
    focus: () => node.querySelector("input").focus(),
  };
  return self;
}
