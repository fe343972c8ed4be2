// How far a job is: a bar of one cell a step, and the same in words, so that no failure passes for work done.

import { el, fill } from "/static/element.js";
import { plural } from "/static/format.js";

const ORDER = ["done", "failed", "skipped", "cancelled", "to go"];
const OUTCOMES = { succeeded: "done", cached: "done", failed: "failed", skipped: "skipped", cancelled: "cancelled" };

export function showProgress(bar, words, job) {
  const outcomes = outcomesOf(job);
  fill(bar, outcomes.map((outcome) => el("span", { class: `is-${outcome.replace(" ", "-")}` })));
  bar.setAttribute("aria-valuemax", outcomes.length);
  bar.setAttribute("aria-valuenow", outcomes.filter((outcome) => outcome !== "to go").length);
  bar.setAttribute("aria-valuetext", tally(job));
  words.textContent = tally(job);
}

/** "2 of 3 steps done", or where not all went well "1 done, 1 failed, 1 to go". */
export function tally(job) {
  const outcomes = outcomesOf(job);
  const counts = ORDER.map((outcome) => [outcomes.filter((one) => one === outcome).length, outcome]);
  const well = outcomes.every((outcome) => outcome === "done" || outcome === "to go");
  if (well) return `${counts[0][0]} of ${plural(outcomes.length, "step")} done`;
  return counts.filter(([count, outcome]) => count || outcome === "done").map((pair) => pair.join(" ")).join(", ");
}

function outcomesOf(job) {
  const outcomes = Object.values(job.steps).map((step) => OUTCOMES[step.state] ?? "to go");
  return outcomes.sort((one, other) => ORDER.indexOf(one) - ORDER.indexOf(other));
}
