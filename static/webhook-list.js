// The registered webhook endpoints, with buttons to test, disable, enable and delete them, and to replace their secrets.

import { announce } from "/static/announce.js";
import { changeWebhook, deleteWebhook, getDeliveryAt, getWebhooks, rotateSecret, testWebhook } from "/static/api.js";
import { isOpen, lastAttempt } from "/static/delivery.js";
import { reconcileChildren } from "/static/element.js";
import { formatTime } from "/static/format.js";
import { pause } from "/static/pause.js";
import { confirmed, confirmedRotation } from "/static/question.js";
import { loadReport, reporting } from "/static/reporting.js";
import { webhookRow } from "/static/webhook-row.js";

const TEST_POLL_INTERVAL_MS = 500;
const TEST_POLLS = 60;

const at = (id) => document.getElementById(id);

/**
 * Show the endpoints. `secret` is the box for secrets. `onShown` is called with the endpoints each time that they are
 * loaded. `onChange` is called after each action. Returns {refresh()}.
 */
export function webhookList({ signal, secret, onShown, onChange }) {
  const report = loadReport(at("webhooks-problem"));
  const action = reporting({
    box: at("webhooks-problem"),
    signal,
    after: async () => { await refresh(); onChange(); },
  });
  const rows = new Map();
  let endpoints = new Map();
  let latest = 0;

  async function refresh() {
    const number = ++latest;
    try {
      const { webhooks } = await getWebhooks(signal);
      if (number !== latest) return; // a later call has begun, so this answer is out of date
      report.succeeded();
      show(webhooks);
    } catch (error) {
      if (!signal.aborted) report.failed(error);
    }
  }

  function show(webhooks) {
    endpoints = new Map(webhooks.map((endpoint) => [endpoint.id, endpoint]));
    for (const id of rows.keys()) if (!endpoints.has(id)) rows.delete(id);
    const list = at("webhook-list");
    const hadFocus = list.contains(document.activeElement);
    reconcileChildren(list, webhooks, {
      key: ({ id }) => id,
      version: ({ id }) => id,
      create: ({ id }) => createRow(id),
      update: (_, endpoint) => rows.get(endpoint.id).show(endpoint),
    });
    at("webhooks-none").hidden = webhooks.length > 0;
    if (hadFocus && !list.contains(document.activeElement)) at("webhooks-title").focus({ preventScroll: true });
    onShown(webhooks);
  }

  function createRow(id) {
    const row = webhookRow({
      test: action(() => test(id)),
      toggle: action(() => toggle(id)),
      rotate: action(() => rotate(id)),
      remove: action(() => remove(id)),
    });
    rows.set(id, row);
    return row.node;
  }

  // Follows the delivery of a test to its end, and shows its result in the row of the endpoint.
  async function test(id) {
    const row = rows.get(id);
    row.showTest("The test is on its way.");
    const location = await testWebhook(id, signal);
    let delivery = await getDeliveryAt(location, signal);
    for (let polls = 1; isOpen(delivery); polls += 1) {
      row.showTest(waitText(delivery, endpoints.get(id)));
      if (polls > TEST_POLLS) return; // the server is in trouble, and the list of deliveries shows the end
      await pause(TEST_POLL_INTERVAL_MS, signal);
      delivery = await getDeliveryAt(location, signal);
    }
    row.showTest(`Test ${delivery.state}: ${lastAttempt(delivery)}.`);
    announce(`Test ${delivery.state}`);
  }

  async function toggle(id) {
    const { enabled } = await changeWebhook(id, { enabled: !endpoints.get(id).enabled }, signal);
    announce(enabled ? "Endpoint enabled" : "Endpoint disabled");
  }

  async function rotate(id) {
    const { url } = endpoints.get(id); // now, because a refresh may remove the endpoint meanwhile
    if (!await confirmedRotation(url)) return;
    const { secret: text, previous_secret_until: until } = await rotateSecret(id, signal);
    secret.show(url, text, until);
  }

  async function remove(id) {
    const { url } = endpoints.get(id);
    at("delete-webhook-url").textContent = url;
    if (!await confirmed(at("delete-webhook-question"))) return;
    await deleteWebhook(id, signal);
    secret.hide(url);
    announce("Endpoint deleted");
  }

  return { refresh };
}

function waitText({ state, next_attempt_at: next }, endpoint) {
  const retryAt = endpoint?.circuit.retry_at;
  if (state === "waiting" && retryAt) return `The server failed, so nothing is sent to it until ${formatTime(retryAt, "medium")}.`;
  return state === "waiting" && next ? `The test waits, next attempt at ${formatTime(next, "medium")}.` : "The test is on its way.";
}
