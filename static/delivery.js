// What the page says about a delivery and its attempts.

import { serverNow } from "/static/api.js";
import { duration, formatTime, triedTimes } from "/static/format.js";

/** Whether a delivery will be sent without an action of the user. */
export const isOpen = ({ state }) => state === "waiting" || state === "sending";

/** Whether the service can send a delivery again. */
export const hasEnded = ({ state }) => state === "delivered" || state === "failed";

/** How often a delivery was tried, and when it is tried next. */
export function tries({ state, attempts, next_attempt_at: next }) {
  const tried = triedTimes(attempts);
  if (state !== "waiting" || !next) return tried;
  // A delivery whose time has come may still wait: for a free courier, or for the circuit breaker of its server.
  return Date.parse(next) > serverNow() ? `${tried}, next attempt at ${formatTime(next, "medium")}` : `${tried}, next attempt is due`;
}

/** The result of an attempt: "status 204, 12 ms", or the code of the error if no answer arrived. */
export function attemptResult({ status, error, ms }) {
  const result = error ? `no answer, ${error}` : `status ${status}`;
  return ms === null ? result : `${result}, ${duration(ms)}`;
}

/** The result of the last attempt of a delivery that was read with its attempts. */
export function lastAttempt({ history }) {
  return history.length ? attemptResult(history.at(-1)) : "not sent";
}
