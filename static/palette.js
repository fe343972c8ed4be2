// The operations to add, in groups by what comes of them, so that one is found among many.

import { el, fill } from "/static/element.js";

const GROUPS = [
  ["Save as", ({ output }) => output.kind === "file" && output.media_type.startsWith("image/")],
  ["Change", ({ output }) => output.kind === "pixels"],
  ["Read", ({ input }) => input.max !== null],
  ["Bundle", () => true],
];

/** {count(steps)}, which shows how many there are of each; `onAdd` hears the operation that was pressed. */
export function palette(operations, onAdd) {
  const counts = new Map(operations.map(({ op }) => [op, el("span", { class: "count", hidden: true })]));
  const groupOf = (operation) => GROUPS.findIndex(([, holds]) => holds(operation));
  const button = (operation) => el("button", {
    type: "button", class: "operation", title: operation.summary, "aria-label": `Add ${operation.title}`, on: { click: () => onAdd(operation) },
  }, operation.title, counts.get(operation.op));

  fill(document.getElementById("operations"), GROUPS.map(([title], i) => {
    const found = operations.filter((operation) => groupOf(operation) === i);
    return found.length > 0 && el("div", { class: `operation-group group-${i + 1}`, role: "group", "aria-label": title },
      el("p", { class: "operation-title" }, title), el("div", { class: "operation-row" }, found.map(button)));
  }));

  return {
    count: (steps) => counts.forEach((count, op) => {
      const number = steps.filter((step) => step.op === op).length;
      count.textContent = number;
      count.hidden = number === 0;
    }),
  };
}
