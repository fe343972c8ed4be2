// One row of the dead-letter list: the failed steps or deliveries of one job that have the same error.

import { el, icon, prose } from "/static/element.js";
import { formatTime, stepEvent, triedTimes } from "/static/format.js";

const TRIES = ["failed", "crashed", "lost"];

/** The key of the row of a dead letter. There is one row for each job and error. */
export const rowKey = ({ job, error }) => JSON.stringify([job, error.code, error.detail]);

/**
 * Create the list item for the dead letters of one row. `titles` maps operations to their titles. `on` has the click
 * listeners `redrive` and `discard`.
 */
export function deadLetterRow(deadLetters, titles, on) {
  const [{ job, source_name: photo, error, created_at: newest }] = deadLetters;
  const byName = [...deadLetters].sort((one, other) => name(one).localeCompare(name(other), "en", { numeric: true }));
  const redriving = deadLetters.filter(({ state }) => state === "redriving").length;
  const entries = deadLetters.length === 1 ? name(deadLetters[0]) : count(deadLetters);
  return el("li", { class: "dead-letter" },
    el("div", {},
      el("h3", {}, el("a", { href: `#/jobs/${job}` }, photo)),
      el("ul", { class: "dead-letter-steps", role: "list" }, byName.map((one) =>
        el("li", {}, el("strong", {}, name(one)), el("span", { class: "quiet" }, isDelivery(one) ? " webhook" : ` ${titles.get(one.op) ?? one.op}`)))),
      el("p", { class: "mono" }, el("time", { datetime: newest }, formatTime(newest)), `, ${triesText(deadLetters)}`)),
    el("div", { class: "dead-letter-tools" },
      redriving > 0 && el("span", { class: "state badge" }, icon("queued"), redriving < deadLetters.length ? `${redriving} redriving` : "redriving"),
      redriving < deadLetters.length && button("Redrive", `${entries} of ${photo}`, on.redrive),
      button("Discard", `${entries} of ${photo}`, on.discard)),
    el("div", { class: "dead-letter-error" }, errorText(error)),
    isDelivery(deadLetters[0]) ? attemptsLink() : historyOf(byName, error));
}

const isDelivery = ({ kind }) => kind === "delivery";

// A delivery has no step. Its receiver names it.
const name = (one) => (isDelivery(one) ? one.url : one.step);

const count = ({ 0: first, length }) => (isDelivery(first) ? `${length} deliveries` : `${length} steps`);

function historyOf(steps, error) {
  return el("details", { class: "dead-letter-history" }, el("summary", {}, "History"),
    steps.map(({ step, history }) => [
      steps.length > 1 && el("h4", {}, step),
      el("ol", { role: "list" }, history.map((entry) => historyEntry(entry, error))),
    ]));
}

function attemptsLink() {
  return el("p", { class: "dead-letter-history" }, el("a", { href: "#/webhooks", on: { click: showDeliveries } }, "The deliveries show each attempt"));
}

// If the view of webhooks is open already, the link alone would do nothing.
function showDeliveries() {
  if (location.hash === "#/webhooks") document.getElementById("deliveries-heading").focus();
}

function button(text, object, listener) {
  return el("button", { type: "button", class: "button", "aria-label": `${text} ${object}`, on: { click: listener } }, text);
}

function triesText(deadLetters) {
  const counts = deadLetters.map((one) => (isDelivery(one) ? one.attempt : one.history.filter(({ what }) => TRIES.includes(what)).length));
  const [fewest, most] = [Math.min(...counts), Math.max(...counts)];
  return fewest === most ? triedTimes(most) : `tried ${fewest} to ${most} times`;
}

// An entry does not show its error if the error equals `shown`, the error of the row.
function historyEntry({ at, what, attempt, error }, shown) {
  const isTry = TRIES.includes(what);
  const isNew = error && (error.code !== shown.code || error.detail !== shown.detail);
  return el("li", {},
    el("time", { datetime: at }, formatTime(at)),
    el("div", {},
      el("p", {}, el("strong", {}, stepEvent(what)), isTry && el("span", { class: "quiet" }, `, attempt ${attempt}`)),
      isTry && isNew && errorText(error)));
}

function errorText({ title, detail }) {
  return [el("p", {}, title), detail !== title && el("p", { class: "quiet" }, prose(detail))];
}
