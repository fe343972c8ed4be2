// Recent jobs, newest first, a page at a time.

import { getJobs } from "/static/api.js";
import { el, icon } from "/static/element.js";
import { pagedList } from "/static/paged-list.js";
import { describe } from "/static/problem.js";
import { jobState, moment } from "/static/format.js";

export function jobHistory({ signal }) {
  const note = document.getElementById("history-note");
  return pagedList({
    rows: document.getElementById("history"),
    more: document.getElementById("history-more"),
    signal,
    rest: () => document.getElementById("history-heading"),
    read: async (query) => {
      const { jobs, next } = await getJobs(query, signal);
      return { items: jobs, next };
    },
    signature: (job) => job.state,
    create: row,
    onShown: (jobs) => {
      note.textContent = "None yet. Your first will be listed here.";
      note.hidden = jobs.length > 0;
    },
    onError: (error) => {
      note.textContent = `The list did not load. ${describe(error).detail ?? ""}`;
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
      el("time", { datetime: job.created_at }, moment(job.created_at))));
}
