// One job, live: its state, its steps, its results.

import { getJob } from "/static/api.js";
import { announce } from "/static/announce.js";
import { el, fill, icon } from "/static/element.js";
import { follow } from "/static/follow.js";
import { showProgress, tally } from "/static/job-progress.js";
import { showSteps } from "/static/job-steps.js";
import { describe } from "/static/problem.js";
import { showResults } from "/static/results.js";
import { bytes, dimensions, ended, format, jobState, moment } from "/static/words.js";

const at = (id) => document.getElementById(id);

/** Show the job `id` until `signal` aborts. `onJob` hears each look at it, `onMove` each change of its state. */
export async function watchJob(id, { signal, titles, onJob, onMove }) {
  let last = null;
  const renew = async () => {
    try {
      show(await getJob(id, signal));
      return true;
    } catch (error) {
      if (!signal.aborted) showTrouble(error);
      return false;
    }
  };
  const show = (job) => {
    render(job, titles, renew);
    tell(job, last);
    onJob(job);
    if (job.state !== last?.state) onMove(job); // the first look too: a quick job may have ended since the list was read
    last = job;
  };
  at("job-problem").hidden = true;
  at("job-lost").hidden = true;
  if (at("job").dataset.job !== id) clear(id);
  try {
    await follow(id, { signal, onJob: show, onLine: showLine });
  } catch (error) {
    at("job-lost").hidden = true;
    if (!signal.aborted) showTrouble(error);
  }
}

function clear(id) {
  at("job").dataset.job = id;
  at("job-title").textContent = "Job";
  at("job-body").hidden = true;
  at("job-results").hidden = true;
  fill(at("job-steps"));
  fill(at("results"));
}

function render(job, titles, renew) {
  at("job-body").hidden = false;
  at("job-results").hidden = false;
  at("job-title").textContent = job.source.name;
  document.title = `${jobState(job.state)}: ${job.source.name} · PixTools`;
  at("job-source").textContent = [format(job.source.media_type), dimensions(job.source), bytes(job.source.bytes)].filter(Boolean).join(" · ");
  at("job-state").className = `state badge is-${job.state}`;
  fill(at("job-state"), icon(job.state), jobState(job.state));
  showProgress(at("job-bar"), at("job-done"), job);
  at("job-kept").textContent = keptUntil(job);
  const told = Object.values(job.steps).some((step) => step.error); // where it went wrong, the step itself says what
  fill(at("job-error"), job.error && [el("strong", {}, job.error.title), ` ${job.error.detail ?? ""}`]);
  at("job-error").hidden = !job.error || told;
  at("job-again").hidden = !ended(job);
  showSteps(at("job-steps"), job, titles);
  at("results-none").hidden = showResults(at("results"), job, renew) > 0;
  at("results-none").textContent = ended(job) ? "This job left no results." : "Results appear here as each step ends.";
}

function keptUntil({ state, expires_at: expires }) {
  if (state === "expired") return "Its results have been deleted.";
  return expires ? `Results are kept until ${moment(expires)}.` : "";
}

function tell(job, last) {
  if (last?.state === job.state && last.progress.done === job.progress.done) return;
  const failed = Object.entries(job.steps).filter(([, step]) => step.state === "failed").map(([name]) => name);
  announce(`Job ${jobState(job.state)}, ${tally(job)}${failed.length ? `: ${failed.join(", ")}` : ""}`);
}

function showLine(on) {
  if (at("job-lost").hidden === on) return;
  at("job-lost").hidden = on;
  announce(on ? "The connection is back." : at("job-lost").textContent);
}

function showTrouble(error) {
  const { title, detail, wait } = describe(error);
  fill(at("job-problem"), el("h3", {}, title), detail && el("p", {}, detail), wait && el("p", {}, wait),
    el("button", { type: "button", class: "button", on: { click: () => window.dispatchEvent(new HashChangeEvent("hashchange")) } }, "Try again"));
  at("job-problem").hidden = false;
}
