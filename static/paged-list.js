// A list from the service, newest first, loaded page by page. A refresh keeps the row elements and the focus. It also
// keeps the length of the list, up to 100 items.

import { reconcileChildren } from "/static/element.js";
import { whileBusy } from "/static/while-busy.js";

const PAGE = 20;
/** The limit of the service. */
export const LARGEST_PAGE = 100;

/**
 * Fill the list `rows`. The button `more` loads the next page. `read({cursor, limit})` resolves to {items, next}. Items
 * with the same `keyOf(item)` share a row. `createRow(items)` makes the row, and makes a new row when `version(items)`
 * changes. `onShown(items, complete)` is called with all loaded items; `complete` is true if the service has no further
 * items. `onError(error)` is called if a page cannot be loaded. If the row that had the focus is gone, the element that
 * `focusFallback()` returns gets the focus. Returns {refresh()}.
 */
export function pagedList({ rows, more, signal, read, keyOf, version, createRow, focusFallback, onShown, onError }) {
  let shown = [];
  let next = null;
  let latest = 0;

  more.addEventListener("click", whileBusy(() => load(next)));

  async function load(cursor = null) {
    const number = ++latest;
    const limit = cursor ? PAGE : Math.min(Math.max(shown.length, PAGE), LARGEST_PAGE);
    try {
      const page = await read({ cursor, limit });
      if (number !== latest) return; // a later call has begun, so this answer is out of date
      shown = cursor ? [...shown, ...page.items] : page.items;
      next = page.next;
      show();
      if (cursor && page.items.length) targetIn(keyOf(page.items[0]))?.focus();
    } catch (error) {
      if (!signal.aborted) onError(error);
    }
  }

  function show() {
    const focusedRow = [...rows.children].find((row) => row.contains(document.activeElement));
    reconcileChildren(rows, groupBy(shown, keyOf), { key: ([first]) => keyOf(first), version, create: createRow });
    more.hidden = !next;
    onShown(shown, !next);
    if (focusedRow && !focusedRow.isConnected) (targetIn(focusedRow.dataset.key) ?? focusFallback()).focus({ preventScroll: true });
  }

  const targetIn = (key) => [...rows.children].find((row) => row.dataset.key === key)?.querySelector("a, summary");

  return { refresh: () => load() };
}

function groupBy(items, keyOf) {
  const groups = new Map();
  for (const item of items) groups.set(keyOf(item), [...(groups.get(keyOf(item)) ?? []), item]);
  return [...groups.values()];
}
