// A job as it happens: server-sent events, or a look every two seconds where the stream keeps failing.

import { getJob, listen } from "/static/api.js";
import { ended } from "/static/words.js";

const BREAKS_BEFORE_POLLING = 3;
const POLL_MS = 2000;

/** Call `onJob` with each state of the job until it has ended or `signal` aborts. Rejects where the job cannot be had. */
export async function follow(id, { signal, onJob }) {
  const first = await getJob(id, signal);
  onJob(first);
  if (ended(first)) return;
  if (!(await stream(id, { signal, onJob })) && !signal.aborted) await poll(id, { signal, onJob });
}

/** Resolves to true when the job has ended, to false when the stream is given up. */
function stream(id, { signal, onJob }) {
  return new Promise((resolve) => {
    const closing = new AbortController();
    const close = (outcome) => { closing.abort(); resolve(outcome); };
    let breaks = 0;
    signal.addEventListener("abort", () => close(false), { once: true });
    listen(id, {
      signal: closing.signal,
      onJob: (job) => {
        if (signal.aborted) return;
        breaks = 0;
        onJob(job);
        if (ended(job)) close(true); // else EventSource would connect again when the server ends the stream
      },
      onBreak: (reconnects) => { if (!reconnects || ++breaks >= BREAKS_BEFORE_POLLING) close(false); },
    });
  });
}

async function poll(id, { signal, onJob }) {
  for (;;) {
    await pause(POLL_MS, signal);
    const job = await getJob(id, signal).catch((error) => {
      if (signal.aborted || error.status) throw error;
      return null; // out of reach for now; the job goes on without us
    });
    if (job) onJob(job);
    if (job && ended(job)) return;
  }
}

function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => { clearTimeout(timer); reject(signal.reason); }, { once: true });
  });
}
