// The steps of a job as a list: state in words with a shape, what it reads, how long it took, what went wrong.

import { el, icon, keep } from "/static/element.js";
import { duration, list, stepState } from "/static/format.js";

export function showSteps(parent, job, titles) {
  keep(parent, Object.entries(job.steps), {
    key: ([name]) => name,
    signature: ([, step]) => JSON.stringify([step.state, step.cached, step.attempt, step.run_ms, step.error]),
    create: ([name, step]) => item(name, step, titles),
  });
}

function item(name, step, titles) {
  const inputs = list(step.input);
  const lost = step.error?.code === "artifact_lost"; // it succeeded, and there is nothing left of it
  return el("li", { class: `job-step is-${step.state}${lost ? " is-lost" : ""}` },
    el("span", { class: "state" }, icon(step.state), stepState(step.state)),
    el("span", { class: "job-step-what" },
      el("strong", {}, name), el("span", { class: "quiet" }, ` ${titles.get(step.op) ?? step.op} of ${inputs}`)),
    el("span", { class: "job-step-time" }, time(step)),
    step.error && error(name, step.error));
}

function time(step) {
  const parts = [];
  if (step.state === "skipped") parts.push("an input failed");
  else if (step.cached) parts.push("already made");
  else if (typeof step.run_ms === "number") parts.push(duration(step.run_ms));
  if (step.attempt > 1) parts.push(`attempt ${step.attempt}`);
  return parts.join(", ");
}

function error(name, { title, detail, errors = [] }) {
  return el("div", { class: "job-step-error" },
    el("p", {}, el("strong", {}, `${name}: ${title}`)),
    detail && detail !== title && el("p", {}, detail),
    errors.length > 0 && el("ul", {}, errors.map((entry) => el("li", {}, entry.detail))));
}
