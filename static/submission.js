// Starts a job. Shows what is still missing, the progress of the upload, and why the service refused the job.

import { createJob } from "/static/api.js";
import { announce } from "/static/announce.js";
import { formatBytes } from "/static/format.js";
import { showFormProblem } from "/static/problem.js";

const at = (id) => document.getElementById(id);

/**
 * Let the form start a job. `onAccepted` is called with the job and its photo. Returns {refresh()}, which the caller
 * must call after each change. `webhookUrl` is the field for the webhook URL.
 */
export function submission({ draft, photo, builder, webhookUrl, onAccepted }) {
  const start = at("start");
  const problem = at("submission-problem");
  const newKey = idempotencyKeys();
  let upload = null; // the AbortController of the current upload

  at("build").addEventListener("submit", (event) => {
    event.preventDefault();
    if (upload) return;
    const obstacle = currentObstacle();
    if (obstacle) announce(`To start, ${obstacle}.`);
    else send();
  });
  at("upload-cancel").addEventListener("click", () => upload?.abort());

  function refresh() {
    const obstacle = currentObstacle();
    start.setAttribute("aria-disabled", Boolean(obstacle || upload));
    at("start-reason").textContent = upload ? "" : obstacle ? `To start, ${obstacle}.` : problem.hidden ? "Ready." : "";
    at("upload").hidden = !upload;
  }

  function currentObstacle() {
    if (!photo.file) return draft.steps.length ? "choose a photo" : "choose a photo and add at least one step";
    return photo.fault ? "choose another photo" : draft.obstacle();
  }

  async function send() {
    const file = photo.file;
    const parts = draft.parts();
    const files = [file, ...Object.values(parts)];
    const request = { steps: draft.specification(), webhookUrl: draft.webhookUrl.trim() };
    upload = new AbortController();
    const { signal } = upload;
    problem.hidden = true;
    builder.clearFaults();
    webhookUrl.clear();
    showProgress(0, files.reduce((sum, { size }) => sum + size, 0));
    refresh();
    announce("Uploading");
    try {
      const job = await createJob({ ...request, file, parts, key: newKey(files, request), signal, onProgress: showProgress });
      newKey.forget();
      upload = null;
      onAccepted(job, file);
    } catch (error) {
      upload = null;
      if (signal.aborted) {
        announce("Upload cancelled");
        start.focus();
      } else {
        showFormProblem(problem, error, mark);
      }
    }
    refresh();
  }

  function mark([area, name, ...path], detail) {
    if (area === "webhook_url") return webhookUrl.fail(detail);
    const card = area === "steps" && name !== undefined ? builder.cardOfStep(name) : builder.cardOfPart(area);
    return card?.fail(path, detail) ?? null;
  }

  return { refresh };
}

function showProgress(sent, total) {
  at("upload-bar").max = total;
  at("upload-bar").value = sent;
  at("upload-progress").textContent = sent < total ? `${formatBytes(sent)} of ${formatBytes(total)} sent` : "Sent. The service is checking the upload.";
}

// A repeated request with the same files, steps and webhook URL gets the same key, so the service does not start a
// second job.
function idempotencyKeys() {
  let last = null;
  const keyFor = (files, request) => {
    const text = JSON.stringify(request);
    const same = last?.text === text && files.length === last.files.length && files.every((file, i) => file === last.files[i]);
    if (!same) last = { files, text, key: randomKey() };
    return last.key;
  };
  keyFor.forget = () => { last = null; };
  return keyFor;
}

// crypto.randomUUID exists only in secure contexts. A page that comes from another host through plain http is not a
// secure context.
function randomKey() {
  if (crypto.randomUUID) return crypto.randomUUID();
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
