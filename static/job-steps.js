// The steps of a job as a list, with the state, the inputs, the run time and the error of each step.

import { el, icon, prose, reconcileChildren } from "/static/element.js";
import { duration, joinAnd } from "/static/format.js";

/** Show the steps of `job` in the list `parent`. `titles` maps operations to their titles. */
export function showSteps(parent, job, titles) {
  reconcileChildren(parent, Object.entries(job.steps), {
    key: ([name]) => name,
    version: ([, step]) => JSON.stringify([step.state, step.cached, step.attempt, step.run_ms, step.error, !step.artifact]),
    create: ([name, step]) => row(name, step, titles),
  });
}

function row(name, step, titles) {
  const lost = step.error?.code === "artifact_lost"; // the step succeeded, but its file is gone
  return el("li", { class: `job-step is-${step.state}${lost ? " is-lost" : ""}` },
    el("span", { class: "state" }, icon(step.state), step.state),
    el("span", { class: "job-step-name" },
      el("strong", {}, name), el("span", { class: "quiet" }, ` ${titles.get(step.op) ?? step.op} of ${joinAnd(step.input)}`)),
    el("span", { class: "job-step-time" }, note(step)),
    step.error && errorText(name, step.error));
}

function note(step) {
  const parts = [];
  if (step.state === "skipped") parts.push("an input failed");
  else if (step.cached) parts.push(step.artifact ? "made before" : "not needed again"); // no other step needs its pixels
  else if (typeof step.run_ms === "number") parts.push(duration(step.run_ms));
  if (step.attempt > 1) parts.push(`attempt ${step.attempt}`);
  return parts.join(", ");
}

function errorText(name, { title, detail, errors = [] }) {
  return el("div", { class: "job-step-error" },
    el("p", {}, el("strong", {}, `${name}: ${title}`)),
    detail && detail !== title && el("p", {}, prose(detail)),
    errors.length > 0 && el("ul", {}, errors.map((fault) => el("li", {}, prose(fault.detail)))));
}
