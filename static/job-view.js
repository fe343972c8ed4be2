// One job, live: its state, its steps, its results.

import { getJob } from "/static/api.js";
import { announce } from "/static/announce.js";
import { fill, icon } from "/static/element.js";
import { follow } from "/static/follow.js";
import { jobActions } from "/static/job-actions.js";
import { showProgress, tally } from "/static/job-progress.js";
import { showSteps } from "/static/job-steps.js";
import { showProblem } from "/static/problem.js";
import { showResults } from "/static/results.js";
import { bytes, dimensions, ended, format, jobState, moment } from "/static/format.js";

const at = (id) => document.getElementById(id);

/**
 * Show the job `id` until `signal` aborts, beside its photo where that is at hand as the file `source`. `onJob` hears each look at it, `onMove` each change of its state. Answers
 * `watch`, which follows a job that has ended once more: for when a step of it is to run again.
 */
export function watchJob(id, { signal, titles, source, onJob, onMove }) {
  let last = null;
  let wanted = false;
  let following = false;
  const actions = jobActions(id, { signal, onJob: show, onRetry: watch });

  async function watch() {
    wanted = true;
    if (following) return;
    following = true;
    at("job-problem").hidden = true;
    at("job-lost").hidden = true;
    try {
      while (wanted) { // it may be asked for while the last look is under way
        wanted = false;
        await follow(id, { signal, onJob: show, onLine: showLine });
      }
    } catch (error) {
      if (!signal.aborted) fail(error);
    }
    following = false;
  }

  function show(job) {
    render(job, { titles, source, renew });
    actions.show(job);
    tell(job, last);
    onJob(job);
    // The first look too, for a quick job may have ended since the list was read; and each end, for a retry may be as quick.
    if (job.state !== last?.state || job.finished_at !== last.finished_at) onMove(job);
    last = job;
  }

  async function renew() {
    try {
      show(await getJob(id, signal));
      return true;
    } catch (error) {
      if (!signal.aborted) fail(error);
      return false;
    }
  }

  function fail(error) {
    at("job-lost").hidden = true;
    showProblem(at("job-problem"), error, () => { at("job-title").focus(); watch(); });
  }

  if (at("job").dataset.job !== id) clear(id);
  watch();
  return watch;
}

function clear(id) {
  at("job").dataset.job = id;
  at("job-title").textContent = "Job";
  at("job-body").hidden = true;
  at("job-results").hidden = true;
  for (const tool of ["job-cancel", "job-retry", "job-again"]) at(tool).hidden = true;
  fill(at("job-steps"));
  fill(at("results"));
}

function render(job, { titles, source, renew }) {
  at("job-body").hidden = false;
  at("job-results").hidden = false;
  at("job-title").textContent = job.source.name;
  document.title = `${jobState(job.state)}: ${job.source.name} · PixTools`;
  const parts = Object.entries(job.parts ?? {}).map(([name, part]) => `with ${name} (${format(part.media_type)}, ${bytes(part.bytes)})`);
  at("job-source").textContent = [format(job.source.media_type), dimensions(job.source), bytes(job.source.bytes), ...parts].filter(Boolean).join(" · ");
  at("job-state").className = `state badge is-${job.state}`;
  fill(at("job-state"), icon(job.state), jobState(job.state));
  showProgress(at("job-bar"), at("job-done"), job);
  at("job-again").hidden = !ended(job);
  showSteps(at("job-steps"), job, titles);
  const made = showResults(at("results"), job, { source, renew });
  at("results-none").hidden = made > 0;
  at("results-none").textContent = ended(job) ? "This job has no results." : "Results appear here as each step ends.";
  at("job-kept").textContent = whatIsKept(job, made);
}

function whatIsKept({ state, expires_at: expires }, made) {
  if (state === "expired") return "This job has expired: its results have been deleted, and only this record is left.";
  const kept = made > 0 && expires ? `kept until ${moment(expires)}.` : null;
  if (state === "cancelled") return `This job was cancelled: steps that had not ended were stopped. ${kept ? `What was made before is ${kept}` : "Nothing had been made before."}`;
  return kept ? `Results are ${kept}` : "";
}

function tell(job, last) {
  if (last?.state === job.state && last.finished_at === job.finished_at && last.progress.done === job.progress.done) return;
  const failed = Object.entries(job.steps).filter(([, step]) => step.state === "failed").map(([name]) => name);
  announce(`Job ${jobState(job.state)}, ${tally(job)}${failed.length ? `: ${failed.join(", ")}` : ""}`);
}

function showLine(on) {
  if (at("job-lost").hidden === on) return;
  at("job-lost").hidden = on;
  announce(on ? "The connection is back." : at("job-lost").textContent);
}
