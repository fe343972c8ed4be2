// The progress of a job: a bar with one cell per step, and a text. Both distinguish failed steps from steps that are
// done.

import { el, fill } from "/static/element.js";
import { plural } from "/static/format.js";

const ORDER = ["done", "failed", "skipped", "cancelled", "to go"];
const BY_STATE = { succeeded: "done", cached: "done", failed: "failed", skipped: "skipped", cancelled: "cancelled" };

/** Show the progress of `job` in the element `bar`, and as text in the element `line`. */
export function showProgress(bar, line, job) {
  const cells = cellsOf(job);
  fill(bar, cells.map((cell) => el("span", { class: `is-${cell.replace(" ", "-")}` })));
  bar.setAttribute("aria-valuemax", cells.length);
  bar.setAttribute("aria-valuenow", cells.filter((cell) => cell !== "to go").length);
  bar.setAttribute("aria-valuetext", progressText(job));
  line.textContent = progressText(job);
}

/** "2 of 3 steps done", or "1 done, 1 failed, 1 to go" if a step failed, was skipped or was cancelled. */
export function progressText(job) {
  const cells = cellsOf(job);
  const counts = ORDER.map((cell) => [cells.filter((one) => one === cell).length, cell]);
  if (cells.every((cell) => cell === "done" || cell === "to go")) return `${counts[0][0]} of ${plural(cells.length, "step")} done`;
  return counts.filter(([count, cell]) => count || cell === "done").map((pair) => pair.join(" ")).join(", ");
}

function cellsOf(job) {
  const cells = Object.values(job.steps).map((step) => BY_STATE[step.state] ?? "to go");
  return cells.sort((one, other) => ORDER.indexOf(one) - ORDER.indexOf(other));
}
