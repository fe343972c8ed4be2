// The buttons that add a step, grouped by what their operations produce.

import { el, fill, icon } from "/static/element.js";

const GROUPS = [
  ["Save as", ({ output }) => output.kind === "file" && output.media_type.startsWith("image/")],
  ["Change", ({ output }) => output.kind === "pixels"],
  ["Read", ({ input }) => input.max !== null],
  ["Bundle", () => true],
];

/**
 * Show a button for each operation. A click calls `onAdd` with the operation. Returns {count(steps)}, which shows how
 * many steps use each operation.
 */
export function palette(operations, onAdd) {
  // The count is outside the button. In the button, the visible text "JPG 1" would differ from the accessible name
  // (WCAG 2.5.3).
  const counts = new Map(operations.map(({ op }) => [op, el("span", { class: "count", "aria-hidden": "true", hidden: true })]));
  const groupOf = (operation) => GROUPS.findIndex(([, matches]) => matches(operation));
  const button = (operation) => el("span", { class: "operation" },
    el("button", {
      type: "button", title: operation.summary, "aria-label": `Add ${operation.title}`, on: { click: () => onAdd(operation) },
    }, icon("add"), operation.title),
    counts.get(operation.op));

  fill(document.getElementById("operations"), GROUPS.map(([title], i) => {
    const members = operations.filter((operation) => groupOf(operation) === i);
    return members.length > 0 && el("div", { class: `operation-group group-${i + 1}`, role: "group", "aria-label": title },
      el("p", { class: "operation-title" }, title), el("div", { class: "operation-row" }, members.map(button)));
  }));

  return {
    count: (steps) => counts.forEach((count, op) => {
      const number = steps.filter((step) => step.op === op).length;
      count.textContent = number;
      count.hidden = number === 0;
    }),
  };
}
