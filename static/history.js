// The list of recent jobs, newest first.

import { getJobs } from "/static/api.js";
import { el, icon } from "/static/element.js";
import { formatTime, jobState } from "/static/format.js";
import { pagedList } from "/static/paged-list.js";
import { describe } from "/static/problem.js";

/** Show the recent jobs. Returns {refresh()}. */
export function jobHistory({ signal }) {
  const note = document.getElementById("history-note");
  return pagedList({
    rows: document.getElementById("history"),
    more: document.getElementById("history-more"),
    signal,
    read: async (query) => {
      const { jobs, next } = await getJobs(query, signal);
      return { items: jobs, next };
    },
    keyOf: (job) => job.id,
    version: ([job]) => job.state,
    createRow: ([job]) => row(job),
    focusFallback: () => document.getElementById("history-heading"),
    onShown: (jobs) => {
      note.textContent = "No jobs yet. Your first job will be listed here.";
      note.hidden = jobs.length > 0;
    },
    onError: (error) => {
      note.textContent = `The list could not be loaded. ${describe(error).detail ?? ""}`;
      note.hidden = false;
    },
  });
}

function row(job) {
  const ops = Object.values(job.steps).map((step) => step.op);
  return el("li", {},
    el("a", { class: "history-row", href: `#/jobs/${job.id}` },
      el("span", { class: `state is-${job.state}` }, icon(job.state), jobState(job.state)),
      el("strong", {}, job.source.name),
      el("span", { class: "quiet" }, [...new Set(ops)].join(", ")),
      el("time", { datetime: job.created_at }, formatTime(job.created_at))));
}
