// One delivery in the log: a line that opens and then shows the attempts.

import { getDelivery } from "/static/api.js";
import { attemptResult, hasEnded, tries } from "/static/delivery.js";
import { el, fill, icon } from "/static/element.js";
import { formatTime } from "/static/format.js";

const ICONS = { waiting: "waiting", sending: "running", delivered: "succeeded", failed: "failed", held: "held", discarded: "cancelled" };

const COLOURS = { delivered: "is-succeeded", failed: "is-failed", held: "is-cancelled", discarded: "is-cancelled" };

/**
 * Create the list item of a delivery. `opened` maps the ids of the open rows to their deliveries with attempts, or to
 * null before they are loaded. So a new row for the same delivery is open again. `onError` is called if the attempts
 * cannot be loaded. `resend` is the click listener of the button “Send again”.
 */
export function deliveryRow(delivery, { opened, signal, onError, resend }) {
  const { id } = delivery;
  const body = el("div", { class: "delivery-body" });
  const row = el("details", { class: "delivery", open: opened.has(id), on: { toggle } }, summary(delivery), body);

  async function toggle() {
    if (!row.open) {
      opened.delete(id);
      return;
    }
    if (!opened.has(id)) opened.set(id, null);
    try {
      const loaded = await getDelivery(id, signal);
      if (!opened.has(id)) return;
      opened.set(id, loaded);
      fill(body, attempts(loaded, resend));
    } catch (error) {
      if (!signal.aborted) onError(error);
    }
  }

  fill(body, opened.get(id) ? attempts(opened.get(id), resend) : el("p", { class: "quiet" }, "Loading the attempts."));
  return el("li", {}, row);
}

function summary(delivery) {
  const { event, state, url, created_at: created } = delivery;
  return el("summary", {},
    el("span", { class: `state badge ${COLOURS[state] ?? ""}` }, icon(ICONS[state] ?? "waiting"), state),
    el("strong", { class: "delivery-event" }, event),
    el("span", { class: "delivery-url" }, url),
    el("span", { class: "delivery-tries quiet" }, tries(delivery)),
    el("time", { datetime: created }, formatTime(created, "medium")));
}

function attempts(delivery, resend) {
  const { event, url, job, history } = delivery;
  return [
    history.length === 0 && el("p", { class: "quiet" }, "No attempt has ended yet."),
    history.length > 0 && el("ol", { class: "attempts", role: "list", "aria-label": "Attempts" }, history.map(attemptItem)),
    el("div", { class: "delivery-tools" },
      hasEnded(delivery) && el("button", {
        type: "button", class: "button", "aria-label": `Send again: ${event} to ${url}`, on: { click: resend },
      }, "Send again"),
      job && el("a", { class: "button", href: `#/jobs/${job}` }, "Show the job")),
  ];
}

function attemptItem(attempt) {
  const { number, at, answer } = attempt;
  return el("li", {},
    el("p", {}, el("strong", {}, `Attempt ${number}`), " ", el("time", { datetime: at }, formatTime(at, "medium"))),
    el("p", { class: "mono" }, attemptResult(attempt)),
    answer && el("pre", { class: "attempt-answer" }, answer));
}
