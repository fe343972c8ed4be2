// Recent jobs, newest first, a page at a time.

import { getJobs } from "/static/api.js";
import { el, fill, icon } from "/static/element.js";
import { describe } from "/static/problem.js";
import { jobState, moment } from "/static/words.js";

export function jobHistory({ signal }) {
  const rows = document.getElementById("history");
  const note = document.getElementById("history-note");
  const more = document.getElementById("history-more");
  let next = null;
  let latest = 0;

  more.addEventListener("click", () => load(next));

  async function load(cursor = null) {
    const turn = ++latest;
    try {
      const page = await getJobs({ cursor, signal });
      if (turn !== latest) return; // a newer look is under way
      const items = page.jobs.map(row);
      if (cursor) rows.append(...items);
      else fill(rows, items);
      if (cursor) items[0]?.querySelector("a").focus();
      next = page.next;
      more.hidden = !next;
      note.textContent = "None yet. Your first will be listed here.";
      note.hidden = rows.children.length > 0;
    } catch (error) {
      if (signal.aborted) return;
      note.textContent = `The list did not load. ${describe(error).detail ?? ""}`;
      note.hidden = false;
    }
  }

  return { refresh: () => load() };
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
