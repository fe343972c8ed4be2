// Follows a job by server-sent events, or by a request every two seconds if three streams in a row bring no event.

import { getDeadLetters, getJob, listen } from "/static/api.js";
import { hasEnded } from "/static/format.js";
import { pause } from "/static/pause.js";

const POLL_INTERVAL_MS = 2000;
const REDRIVE_POLL_INTERVAL_MS = 500;
const EMPTY_STREAMS_BEFORE_POLLING = 3;

/**
 * Call `onJob` with each version of the job until the job has ended and no redrive is pending, or until `signal`
 * aborts. `onConnection` is called with false when the service stops answering, and with true when the service answers.
 * Rejects if the service refuses to show the job. Rejects with the reason of `signal` if `signal` aborts.
 */
export async function follow(id, { signal, onJob, onConnection }) {
  let emptyStreams = 0; // the number of empty streams in a row: if a proxy holds events back, every stream is empty
  for (;;) {
    const { job, redriving } = await read(id, { signal, onConnection });
    onJob(job);
    if (hasEnded(job) && !redriving) return;
    if (!hasEnded(job) && emptyStreams < EMPTY_STREAMS_BEFORE_POLLING) {
      const result = await readStream(id, { signal, onJob });
      if (result === "ended") continue; // read once more, because a step may have been redriven
      emptyStreams = result === "empty" ? emptyStreams + 1 : 0;
    }
    await pause(hasEnded(job) ? REDRIVE_POLL_INTERVAL_MS : POLL_INTERVAL_MS, signal);
  }
}

// Reads the job and whether a redrive is pending. Repeats the requests for as long as the service does not answer.
async function read(id, { signal, onConnection }) {
  for (;;) {
    try {
      // The order matters: if a step is redriven between the two requests, the job shows the redrive.
      const pending = await getDeadLetters({ job: id, state: "redriving", limit: 1 }, signal);
      const job = await getJob(id, signal);
      onConnection(true);
      return { job, redriving: pending.dead_letters.length > 0 };
    } catch (error) {
      if (signal.aborted || error.final) throw error;
      onConnection(false);
      await pause(POLL_INTERVAL_MS, signal);
    }
  }
}

// Resolves to "ended" after the last event of the job, to "broken" if the stream breaks after at least one event, and
// to "empty" if the stream breaks before the first event.
function readStream(id, { signal, onJob }) {
  return new Promise((resolve) => {
    const closing = new AbortController();
    let result = "empty";
    const close = () => { closing.abort(); resolve(result); };
    signal.addEventListener("abort", close, { once: true });
    listen(id, {
      signal: closing.signal,
      onJob: (job) => {
        if (signal.aborted) return;
        result = hasEnded(job) ? "ended" : "broken";
        onJob(job);
        if (hasEnded(job)) close(); // otherwise EventSource would connect again when the service ends the stream
      },
      onBreak: close,
    });
  });
}
