// The log of webhook deliveries, newest first, with filters.

import { announce } from "/static/announce.js";
import { getDeliveries, replayDelivery } from "/static/api.js";
import { tries } from "/static/delivery.js";
import { deliveryRow } from "/static/delivery-row.js";
import { el, fill } from "/static/element.js";
import { LARGEST_PAGE, pagedList } from "/static/paged-list.js";
import { loadReport, reporting } from "/static/reporting.js";

const STATES = ["waiting", "sending", "delivered", "failed", "held", "discarded"]; // DeliveryState in pixtools/states.py

const at = (id) => document.getElementById(id);

/**
 * Show the deliveries. `onFailure` is called when a delivery has failed that had not failed before. Returns
 * {refresh(), refreshShort(), offer(endpoints)}. `refreshShort` does nothing if the list is so long that a refresh would
 * shorten it. `offer` sets the endpoints of the filter.
 */
export function deliveries({ signal, onFailure }) {
  const [state, endpoint] = [at("delivery-state"), at("delivery-endpoint")];
  const report = loadReport(at("deliveries-problem"));
  const opened = new Map();
  let length = 0;
  let failed = "";
  let offered = "";

  const action = reporting({ box: at("deliveries-problem"), signal, after: () => list.refresh() });

  const list = pagedList({
    rows: at("delivery-list"),
    more: at("deliveries-more"),
    signal,
    read: async (query) => {
      const chosen = { state: state.value || null, webhook: endpoint.value || null };
      const { deliveries: items, next } = await getDeliveries({ ...query, ...chosen }, signal);
      return { items, next };
    },
    keyOf: ({ id }) => id,
    version: ([one]) => JSON.stringify([one.state, tries(one), one.url]),
    createRow: ([one]) => deliveryRow(one, {
      opened, signal,
      onError: report.failed,
      resend: action(async () => {
        await replayDelivery(one.id, signal);
        announce(`${one.event} is sent again`);
      }),
    }),
    focusFallback: () => at("deliveries-heading"),
    onShown: (items) => {
      report.succeeded();
      length = items.length;
      at("deliveries-none").hidden = length > 0;
      at("deliveries-none").textContent = state.value || endpoint.value ? "No delivery matches these filters." : "No deliveries yet.";
      notice(items);
    },
    onError: report.failed,
  });

  function notice(items) {
    const now = items.filter((one) => one.state === "failed").map(({ id, attempts }) => `${id} ${attempts}`).join();
    if (now !== failed) onFailure();
    failed = now;
  }

  function offer(endpoints) {
    const text = JSON.stringify(endpoints.map(({ id, url }) => [id, url]));
    if (text === offered) return; // new options would close a list that the user has opened
    offered = text;
    const chosen = endpoint.value;
    fill(endpoint, el("option", { value: "" }, "all"), endpoints.map(({ id, url }) => el("option", { value: id }, url)));
    endpoint.value = endpoints.some(({ id }) => id === chosen) ? chosen : "";
    if (endpoint.value !== chosen) list.refresh();
  }

  fill(state, el("option", { value: "" }, "all"), STATES.map((one) => el("option", { value: one }, one)));
  fill(endpoint, el("option", { value: "" }, "all"));
  for (const filter of [state, endpoint]) filter.addEventListener("change", () => list.refresh());
  return { refresh: list.refresh, refreshShort: () => (length <= LARGEST_PAGE ? list.refresh() : null), offer };
}
