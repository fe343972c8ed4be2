// Starting a job: why it cannot start yet, the upload, its progress and its refusal.

import { createJob } from "/static/api.js";
import { announce } from "/static/announce.js";
import { showRefusal } from "/static/problem.js";
import { bytes } from "/static/format.js";

export function submission({ draft, photo, builder, onAccepted }) {
  const form = document.getElementById("build");
  const start = document.getElementById("start");
  const reason = document.getElementById("start-reason");
  const upload = document.getElementById("upload");
  const bar = document.getElementById("upload-bar");
  const told = document.getElementById("upload-told");
  const box = document.getElementById("refusal");
  let sending = null; // the AbortController of the upload under way
  let attempt = null; // {files, text, key}: the same files and steps go out again under the same key

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (sending) return;
    const obstacle = obstacleNow();
    if (obstacle) announce(`Not yet: ${obstacle}`);
    else send();
  });
  document.getElementById("upload-cancel").addEventListener("click", () => sending?.abort());

  function refresh() {
    const obstacle = obstacleNow();
    start.setAttribute("aria-disabled", Boolean(obstacle || sending));
    reason.textContent = sending ? "" : obstacle ? `To start, ${obstacle}.` : box.hidden ? "Ready." : "";
    upload.hidden = !sending;
  }

  function obstacleNow() {
    if (!photo.file) return draft.steps.length ? "choose a photo" : "choose a photo and add at least one step";
    return photo.fault ? "choose another photo" : draft.obstacle();
  }

  async function send() {
    const file = photo.file;
    const parts = draft.parts();
    const files = [file, ...Object.values(parts)];
    const steps = draft.specification();
    const text = JSON.stringify(steps);
    const again = attempt?.text === text && files.length === attempt.files.length && files.every((one, i) => one === attempt.files[i]);
    if (!again) attempt = { files, text, key: freshKey() };
    sending = new AbortController();
    box.hidden = true;
    builder.clearProblems();
    progress(0, files.reduce((sum, { size }) => sum + size, 0));
    refresh();
    announce("Uploading");
    try {
      const job = await createJob({ file, parts, steps, key: attempt.key, signal: sending.signal, onProgress: progress });
      attempt = null;
      sending = null;
      onAccepted(job, file);
    } catch (error) {
      const cancelled = sending.signal.aborted;
      sending = null;
      if (cancelled) announce("Upload cancelled");
      else showRefusal(box, error, builder);
      if (cancelled) start.focus();
    }
    refresh();
  }

  function progress(sent, total) {
    bar.max = total;
    bar.value = sent;
    told.textContent = sent < total ? `${bytes(sent)} of ${bytes(total)} sent` : "Sent. The service is checking it.";
  }

  return { refresh };
}

// crypto.randomUUID exists only in secure contexts, which plain http on another host is not.
function freshKey() {
  if (crypto.randomUUID) return crypto.randomUUID();
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
