// The wiring: which view is shown, and who hears whom.

import { getOperations } from "/static/api.js";
import { builder } from "/static/builder.js";
import { deadLetters } from "/static/dead-letters.js";
import { Draft } from "/static/draft.js";
import { draftStore } from "/static/draft-store.js";
import { acceptFiles } from "/static/drop.js";
import { el, fill } from "/static/element.js";
import { jobHistory } from "/static/history.js";
import { watchJob } from "/static/job-view.js";
import { photoPicker } from "/static/photo.js";
import { describe } from "/static/problem.js";
import { submission } from "/static/submission.js";

const leaving = new AbortController();
const trouble = document.getElementById("trouble");

async function open() {
  trouble.hidden = true;
  try {
    wire(await getOperations(leaving.signal));
  } catch (error) {
    const { title, detail } = describe(error);
    fill(trouble, el("h2", {}, title), detail && el("p", {}, detail),
      el("button", { type: "button", class: "button", on: { click: open } }, "Try again"));
    trouble.hidden = false;
  }
}

function wire({ operations, limits, media_types: mediaTypes }) {
  const titles = new Map(operations.map(({ op, title }) => [op, title]));
  const sources = new Map(); // the photos of the jobs that this page has started: the service gives none back
  const history = jobHistory({ signal: leaving.signal });
  const draft = new Draft(operations);
  draftStore.restore(draft);
  let start = { refresh: () => {} }; // until photo and steps exist for it to look at
  const photo = photoPicker({ limits, mediaTypes, onChange: () => start.refresh() });
  const steps = builder({ draft, operations, onChange: () => { start.refresh(); draftStore.save(draft); } });
  start = submission({ draft, photo, builder: steps, onAccepted: (job, file) => {
    sources.set(job.id, file);
    draftStore.clear();
    location.hash = `#/jobs/${job.id}`;
    history.refresh();
  } });
  const letters = deadLetters({ signal: leaving.signal, titles, onRedrive: () => watch(), onLook: history.refresh });
  let viewing = new AbortController();
  let watch = () => {}; // until a job is shown
  let shown = null;

  function refresh() {
    history.refresh();
    letters.refresh();
  }

  function route({ first = false } = {}) {
    const id = location.hash.match(/^#\/jobs\/([^/]+)$/)?.[1] ?? null;
    viewing.abort();
    viewing = new AbortController();
    document.title = "PixTools";
    document.getElementById("build").hidden = Boolean(id);
    document.getElementById("job").hidden = !id;
    if (!first) {
      window.scrollTo(0, 0);
      document.getElementById(id ? "job-title" : "build-title").focus({ preventScroll: true });
    }
    watch = () => {};
    if (id) watch = watchJob(id, { signal: viewing.signal, titles, source: sources.get(id), onJob: (job) => { shown = job; }, onMove: refresh });
  }

  document.getElementById("job-again").addEventListener("click", () => {
    steps.load(shown.steps);
    photo.take([]);
    location.hash = "#/";
  });
  acceptFiles((files) => {
    photo.take(files);
    if (!document.getElementById("job").hidden) location.hash = "#/";
  });
  window.addEventListener("hashchange", () => route());
  document.getElementById("recent").hidden = false;
  start.refresh();
  refresh();
  route({ first: true });
}

// The hash holds the job, so this link must not write to it.
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  document.getElementById("main").focus();
});
window.addEventListener("pagehide", (event) => { if (!event.persisted) leaving.abort(); });
open();
