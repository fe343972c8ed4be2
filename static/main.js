// The start of the page: creates all components, connects them and shows the view that belongs to the address.

import { getOperations } from "/static/api.js";
import { Builder } from "/static/builder.js";
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
import { webhookUrlField } from "/static/webhook-url.js";
import { webhooks } from "/static/webhooks.js";

const closing = new AbortController(); // aborts all requests when the user leaves the page
const hashAtLoad = location.hash;

const at = (id) => document.getElementById(id);

async function open() {
  at("load-error").hidden = true;
  try {
    start(await getOperations(closing.signal));
  } catch (error) {
    const { title, detail } = describe(error);
    fill(at("load-error"), el("h2", {}, title), detail && el("p", {}, detail),
      el("button", { type: "button", class: "button", on: { click: open } }, "Try again"));
    at("load-error").hidden = false;
  }
}

function start({ operations, limits, media_types: mediaTypes }) {
  const titles = new Map(operations.map(({ op, title }) => [op, title]));
  const webhookView = webhooks({ signal: closing.signal, onFailure: () => deadLetterList.refresh() });
  const view = mainView({ webhookView, titles, onMove: () => { history.refresh(); deadLetterList.refresh(); } });
  const history = jobHistory({ signal: closing.signal });
  const deadLetterList = deadLetters({
    signal: closing.signal,
    titles,
    onRedrive: () => view.watch(),
    onChange: () => { history.refresh(); view.refreshRetry(); },
  });
  const { steps, photo, webhookUrl } = newJobForm({
    operations, limits, mediaTypes,
    onAccepted: (job, file) => {
      view.addSource(job.id, file);
      // Someone who has left the form meanwhile stays there. The list of recent jobs shows the new job.
      if (!at("build").hidden) location.hash = `#/jobs/${job.id}`;
      history.refresh();
    },
  });

  at("job-again").addEventListener("click", () => {
    steps.load(view.job().steps);
    webhookUrl.show(view.job().webhook_url ?? "");
    photo.take([]);
    location.hash = "#/";
  });
  acceptFiles((files) => {
    photo.take(files);
    if (at("build").hidden) location.hash = "#/";
  });
  window.addEventListener("hashchange", () => view.route());
  at("recent").hidden = false;
  history.refresh();
  deadLetterList.refresh();
  // The user may have followed a link while the page was loading. Then the new view takes the focus.
  const followed = location.hash !== hashAtLoad || document.activeElement?.hash === location.hash;
  view.route({ first: !followed });
}

function newJobForm({ operations, limits, mediaTypes, onAccepted }) {
  const draft = new Draft(operations);
  draftStore.restore(draft);
  let starter = { refresh: () => {} }; // replaced below: `photo` and `steps` call `starter`, and `starter` needs both
  const photo = photoPicker({ limits, mediaTypes, onChange: () => starter.refresh() });
  const steps = new Builder({ draft, operations, onChange: () => { starter.refresh(); draftStore.save(draft); } });
  const webhookUrl = webhookUrlField({ draft, onChange: () => draftStore.save(draft) });
  starter = submission({ draft, photo, builder: steps, webhookUrl, onAccepted: (job, file) => { draftStore.clear(); onAccepted(job, file); } });
  starter.refresh();
  return { steps, photo, webhookUrl };
}

// Shows the job whose id is in the address, the webhooks, or otherwise the form for a new job.
function mainView({ webhookView, titles, onMove }) {
  // The photos of the jobs that this page started. They are kept here, because the service does not return photos.
  const sources = new Map();
  const idle = { watch: () => {}, refreshRetry: () => {} };
  let viewing = new AbortController();
  let watched = idle;
  let shown = null;

  function route({ first = false } = {}) {
    const id = location.hash.match(/^#\/jobs\/([^/]+)$/)?.[1] ?? null;
    const view = id ? "job" : location.hash === "#/webhooks" ? "webhooks" : "build";
    viewing.abort();
    viewing = new AbortController();
    document.title = view === "webhooks" ? "Webhooks · PixTools" : "PixTools";
    for (const name of ["build", "job", "webhooks"]) at(name).hidden = name !== view;
    if (view === "webhooks") at("webhooks-link").setAttribute("aria-current", "page");
    else at("webhooks-link").removeAttribute("aria-current");
    if (!first) {
      window.scrollTo(0, 0);
      at(`${view}-title`).focus({ preventScroll: true });
    }
    if (view === "webhooks") webhookView.watch(viewing.signal);
    watched = id ? watchJob(id, { signal: viewing.signal, titles, source: sources.get(id), onJob: (job) => { shown = job; }, onMove }) : idle;
  }

  return {
    route,
    job: () => shown,
    watch: () => watched.watch(),
    refreshRetry: () => watched.refreshRetry(),
    addSource: (id, file) => sources.set(id, file),
  };
}

// The hash of the address decides which view is shown, so this link must not change the hash.
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  at("main").focus();
});
window.addEventListener("pagehide", (event) => { if (!event.persisted) closing.abort(); });
open();
