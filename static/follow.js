// A job as it happens: server-sent events, or a look every two seconds where the stream brings nothing.

import { getDeadLetters, getJob, listen } from "/static/api.js";
import { ended } from "/static/format.js";

const PAUSE_MS = 2000;
const SOON_MS = 500;
const BARREN_STREAMS_BEFORE_POLLING = 3;

/**
 * Call `onJob` with each state of the job until it has ended for good or `signal` aborts; `onLine` hears false when the service
 * stops answering and true when it does again. Rejects only where the service itself says that the job cannot be had.
 */
export async function follow(id, { signal, onJob, onLine }) {
  let barren = 0; // streams in a row that brought no event: something between us and the service holds them back
  for (;;) {
    const { job, redriving } = await look(id, { signal, onLine });
    onJob(job);
    if (ended(job) && !redriving) return;
    if (!ended(job) && barren < BARREN_STREAMS_BEFORE_POLLING) {
      const outcome = await stream(id, { signal, onJob });
      if (outcome === "ended") continue; // unless a step of it was redriven
      barren = outcome === "barren" ? barren + 1 : 0;
    }
    await pause(ended(job) ? SOON_MS : PAUSE_MS, signal);
  }
}

/** The job as it is now, and whether something in it is about to run again; however long the service stays away. */
async function look(id, { signal, onLine }) {
  for (;;) {
    try {
      // In this order: a step that is redriven between the two shows in the job.
      const letters = await getDeadLetters({ job: id, state: "redriving", limit: 1 }, signal);
      const job = await getJob(id, signal);
      onLine(true);
      return { job, redriving: letters.dead_letters.length > 0 };
    } catch (error) {
      if (signal.aborted || error.final) throw error;
      onLine(false);
      await pause(PAUSE_MS, signal);
    }
  }
}

/** Resolves to "ended" when the job has, else to "broken" after some events or "barren" after none. */
function stream(id, { signal, onJob }) {
  return new Promise((resolve) => {
    const closing = new AbortController();
    let outcome = "barren";
    const close = () => { closing.abort(); resolve(outcome); };
    signal.addEventListener("abort", close, { once: true });
    listen(id, {
      signal: closing.signal,
      onJob: (job) => {
        if (signal.aborted) return;
        outcome = ended(job) ? "ended" : "broken";
        onJob(job);
        if (ended(job)) close(); // else EventSource would connect again when the server ends the stream
      },
      onBreak: close, // the next look tells whether the service is still there
    });
  });
}

function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    if (signal.aborted) reject(signal.reason);
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => { clearTimeout(timer); reject(signal.reason); }, { once: true });
  });
}
