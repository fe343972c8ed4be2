// The view of one job: its state, its steps and its results. The view is updated while the job runs.

import { announce } from "/static/announce.js";
import { getJob } from "/static/api.js";
import { el, fill, icon } from "/static/element.js";
import { follow } from "/static/follow.js";
import { dimensions, formatBytes, formatName, formatTime, hasEnded, jobState } from "/static/format.js";
import { jobActions } from "/static/job-actions.js";
import { progressText, showProgress } from "/static/job-progress.js";
import { showSteps } from "/static/job-steps.js";
import { showProblem } from "/static/problem.js";
import { showResults } from "/static/results.js";

const UUID = /^[0-9a-f-]{32,36}$/i; // a rough check; the service checks the id exactly

const at = (id) => document.getElementById(id);

/**
 * Show the job `id` until `signal` aborts. `source` is the file of the photo, if this page has the file. `onJob` is
 * called with each version of the job, and `onMove` each time the state of the job changes. Returns
 * {watch(), refreshRetry()}. `watch` follows the job again after a redrive. `refreshRetry` checks again whether the job
 * can be retried.
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
      while (wanted) { // `watch` may be called again while the job is being followed
        wanted = false;
        await follow(id, { signal, onJob: show, onConnection: showConnection });
      }
    } catch (error) {
      if (!signal.aborted) fail(error);
    }
    following = false;
  }

  function show(job) {
    render(job, { titles, source, renew });
    actions.show(job);
    announceProgress(job, last);
    onJob(job);
    // The first version counts as a change: a quick job may have ended already, while the list of jobs still shows its
    // earlier state. A new finish time counts too, because a quick retry may end in the same state as before.
    if (job.state !== last?.state || job.finished_at !== last.finished_at) onMove(job);
    last = job;
  }

  // Reads the job once, for fresh download URLs. Resolves to false if the request failed.
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
    if (error.final && error.status === 404) showMissing(`The service has no job with the id ${id}.`);
    else showProblem(at("job-problem"), error, () => { at("job-title").focus(); watch(); });
  }

  if (at("job").dataset.job !== id) clear(id);
  if (UUID.test(id)) watch();
  else showMissing(`“${id}” at the end of this page's address is not the id of a job.`);
  return { watch, refreshRetry: actions.refreshRetry };
}

function showMissing(reason) {
  document.title = "No such job · PixTools";
  fill(at("job-problem"), el("h3", {}, "There is no such job"),
    el("p", {}, `${reason} Check the address, or choose a job from the list of recent jobs.`),
    el("a", { class: "button", href: "#/" }, "Start a new job"));
  at("job-problem").hidden = false;
}

function clear(id) {
  at("job").dataset.job = id;
  at("job-title").textContent = "Job";
  at("job-body").hidden = true;
  at("job-results").hidden = true;
  at("job-problem").hidden = true;
  at("job-lost").hidden = true;
  for (const button of ["job-cancel", "job-retry", "job-again"]) at(button).hidden = true;
  fill(at("job-steps"));
  fill(at("results"));
}

function render(job, { titles, source, renew }) {
  at("job-body").hidden = false;
  at("job-results").hidden = false;
  at("job-title").textContent = job.source.name;
  document.title = `${jobState(job.state)}: ${job.source.name} · PixTools`;
  const parts = Object.entries(job.parts ?? {}).map(([name, part]) => `with ${name} (${formatName(part.media_type)}, ${formatBytes(part.bytes)})`);
  at("job-source").textContent =
    [formatName(job.source.media_type), dimensions(job.source), formatBytes(job.source.bytes), ...parts].filter(Boolean).join(" · ");
  at("job-state").className = `state badge is-${job.state}`;
  fill(at("job-state"), icon(job.state), jobState(job.state));
  showProgress(at("job-bar"), at("job-done"), job);
  at("job-again").hidden = !hasEnded(job);
  showSteps(at("job-steps"), job, titles);
  const results = showResults(at("results"), job, { source, renew });
  at("results-none").hidden = results > 0;
  at("results-none").textContent = hasEnded(job) ? "This job has no results." : "Each result appears here as soon as its step ends.";
  at("job-kept").textContent = retentionNote(job, results);
}

function retentionNote({ state, expires_at: expires }, results) {
  if (state === "expired") return "This job has expired. Its results were deleted; only this record is left.";
  const kept = results > 0 && expires ? `are kept until ${formatTime(expires)}.` : null;
  if (state === "cancelled") return `This job was cancelled, and its unfinished steps were stopped. ${kept ? `Its finished results ${kept}` : "It had no results yet."}`;
  return kept ? `Results ${kept}` : "";
}

function announceProgress(job, last) {
  if (last?.state === job.state && last.finished_at === job.finished_at && last.progress.done === job.progress.done) return;
  const failed = Object.entries(job.steps).filter(([, step]) => step.state === "failed").map(([name]) => name);
  announce(`Job ${jobState(job.state)}, ${progressText(job)}${failed.length ? `: ${failed.join(", ")}` : ""}`);
}

function showConnection(connected) {
  if (at("job-lost").hidden === connected) return;
  at("job-lost").hidden = connected;
  announce(connected ? "Connected again." : at("job-lost").textContent);
}
