// What can be asked of a job: to be cancelled while it is under way, or to run again what failed in it.

import { announce } from "/static/announce.js";
import { cancelJob, retryJob } from "/static/api.js";
import { asking } from "/static/while-busy.js";
import { showProblem } from "/static/problem.js";
import { ended } from "/static/format.js";

const at = (id) => document.getElementById(id);

/** {show(job)}. `onJob` hears the job as cancelled; `onRetry` is to follow it again and resolves when it has ended. */
export function jobActions(id, { signal, onJob, onRetry }) {
  on("job-cancel", async () => onJob(await cancelJob(id, signal)));
  on("job-retry", async () => {
    await retryJob(id, signal);
    announce("Retrying what failed");
    await onRetry();
  });

  function on(button, ask) {
    at(button).addEventListener("click", asking(async () => {
      at("job-problem").hidden = true;
      try {
        await ask();
      } catch (error) {
        if (!signal.aborted) showProblem(at("job-problem"), error);
      }
    }), { signal });
  }

  return {
    show: (job) => {
      offer(at("job-cancel"), !ended(job));
      offer(at("job-retry"), ended(job) && Object.values(job.steps).some((step) => step.state === "failed"));
    },
  };
}

function offer(button, on) {
  if (!on && button === document.activeElement) at("job-title").focus({ preventScroll: true });
  button.hidden = !on;
}
