// The buttons of a job: Cancel while the job runs, and Retry if failed steps of the job can run again.

import { announce } from "/static/announce.js";
import { cancelJob, getDeadLetters, retryJob } from "/static/api.js";
import { hasEnded } from "/static/format.js";
import { showProblem } from "/static/problem.js";
import { whileBusy } from "/static/while-busy.js";

const at = (id) => document.getElementById(id);

/**
 * Let the buttons act on the job `id`. `onJob` is called with the cancelled job. `onRetry` is called after a retry. It
 * must follow the job, and must resolve when the job has ended. Returns {show(job), refreshRetry()}.
 */
export function jobActions(id, { signal, onJob, onRetry }) {
  let current = null;
  let latest = 0;

  onClick("job-cancel", async () => onJob(await cancelJob(id, signal)));
  onClick("job-retry", async () => {
    await retryJob(id, signal);
    announce("Retrying the failed steps");
    await onRetry();
  });

  function onClick(button, action) {
    at(button).addEventListener("click", whileBusy(async () => {
      at("job-problem").hidden = true;
      try {
        await action();
      } catch (error) {
        if (signal.aborted) return;
        showProblem(at("job-problem"), error);
        await refreshRetry();
      }
    }), { signal });
  }

  function show(job) {
    current = job;
    offer(at("job-cancel"), !hasEnded(job));
    refreshRetry();
  }

  // A failed step can run again only while its dead letter is open. The job does not contain its dead letters, so this
  // function requests them.
  async function refreshRetry() {
    const number = ++latest;
    if (!current || !hasEnded(current) || !Object.values(current.steps).some((step) => step.state === "failed")) {
      offer(at("job-retry"), false);
      return;
    }
    try {
      const open = await getDeadLetters({ job: id, limit: 1 }, signal);
      if (number === latest) offer(at("job-retry"), open.dead_letters.length > 0);
    } catch {
      // The button stays as it is. The service checks again when the user presses the button.
    }
  }

  return { show, refreshRetry };
}

function offer(button, on) {
  if (!on && button === document.activeElement) at("job-title").focus({ preventScroll: true });
  button.hidden = !on;
}
