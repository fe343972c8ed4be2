// One registered webhook endpoint in the list.

import { el, fill, icon } from "/static/element.js";
import { formatTime, plural } from "/static/format.js";

/**
 * Create the list item of an endpoint. `on` has the click listeners `test`, `toggle`, `rotate` and `remove`. Returns
 * {node, show(endpoint), showTest(text)}. `show` changes only the parts that the endpoint determines, so the buttons
 * keep the focus.
 */
export function webhookRow(on) {
  const about = el("div", { class: "webhook-about" });
  const test = el("p", { class: "webhook-test", hidden: true });
  const buttons = {
    test: button("Send a test", on.test),
    toggle: button("Disable", on.toggle),
    rotate: button("Rotate secret", on.rotate),
    remove: button("Delete", on.remove),
  };
  const node = el("li", { class: "webhook" }, about, el("div", { class: "webhook-tools" }, Object.values(buttons)), test);
  let shown = null;

  function show(endpoint) {
    const version = JSON.stringify(endpoint);
    if (version === shown) return;
    shown = version;
    fill(about, description(endpoint));
    const { url, enabled } = endpoint;
    buttons.toggle.textContent = enabled ? "Disable" : "Enable";
    label(buttons.test, `to ${url}`);
    label(buttons.toggle, url);
    label(buttons.rotate, `of ${url}`);
    label(buttons.remove, url);
  }

  function showTest(text) {
    test.textContent = text;
    test.hidden = false;
  }

  return { node, show, showTest };
}

const button = (text, listener) => el("button", { type: "button", class: "button", on: { click: listener } }, text);

const label = (control, object) => control.setAttribute("aria-label", `${control.textContent} ${object}`);

function description({ url, description: note, events, enabled, disabled_reason: reason, include_urls: urls, circuit, previous_secret_until: until }) {
  return [
    el("div", { class: "webhook-head" }, el("h3", {}, url), badge(enabled, reason)),
    note && el("p", {}, note),
    el("ul", { class: "webhook-events", role: "list", "aria-label": "Events" }, events.map((event) => el("li", {}, event))),
    reason && el("p", { class: "webhook-trouble" }, `PixTools disabled this endpoint: ${reason}`),
    el("p", { class: circuit.state === "closed" ? "quiet" : "webhook-trouble" }, `Circuit breaker: ${circuitText(circuit)}`),
    urls && el("p", { class: "quiet" }, "Events include download URLs."),
    until && el("p", { class: "quiet" }, `The previous secret also signs until ${formatTime(until)}.`),
  ];
}

function badge(enabled, reason) {
  if (enabled) return el("span", { class: "state badge is-succeeded" }, icon("succeeded"), "enabled");
  return el("span", { class: `state badge ${reason ? "is-failed" : "is-cancelled"}` }, icon("held"), "disabled");
}

function circuitText({ state, failures, retry_at: retryAt }) {
  const after = failures ? `, ${plural(failures, "failure")} in a row` : "";
  if (state === "closed") return `closed${after}`;
  if (state === "half-open") return "half-open, one delivery tests whether the server works again";
  return `open${after}, tries again at ${formatTime(retryAt, "medium")}`;
}
