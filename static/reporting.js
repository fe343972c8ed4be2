// Shows in a box why a request failed.

import { showProblem } from "/static/problem.js";
import { whileBusy } from "/static/while-busy.js";

/**
 * Return a function that makes click listeners. A listener hides `box` and runs `act`. If `act` throws, the error is
 * shown in `box`. Then the listener runs `after`, unless `signal` has aborted.
 */
export const reporting = ({ box, signal, after }) => (act) => whileBusy(async () => {
  box.hidden = true;
  try {
    await act();
  } catch (error) {
    if (signal.aborted) return;
    showProblem(box, error);
    box.scrollIntoView({ block: "nearest" }); // the box is above a list, so it may be out of view
  }
  await after();
});

/**
 * Report in `box` that a list cannot be loaded, until it can be loaded again. Returns {failed(error), succeeded()}. A
 * list that is loaded every few seconds reports its failure once, so that screen readers do not repeat it.
 */
export function loadReport(box) {
  let failing = false;
  return {
    failed: (error) => {
      if (failing && !box.hidden) return;
      failing = true;
      showProblem(box, error);
    },
    succeeded: () => {
      if (failing) box.hidden = true; // without this condition, an error of a button would disappear too soon
      failing = false;
    },
  };
}
