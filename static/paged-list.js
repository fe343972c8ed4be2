// A list of the service's, newest first, a page at a time. Looked at anew, it keeps its length, its rows and their focus.

import { asking } from "/static/while-busy.js";
import { keep } from "/static/element.js";

const PAGE = 20;
const MOST = 100; // that the service gives at once

/**
 * `read({cursor, limit})` answers {items, next}, `create(item)` a row, `signature(item)` all of it that may change, and
 * `rest()` where focus goes when its row is gone.
 */
export function pagedList({ rows, more, signal, rest, read, signature, create, onShown, onError }) {
  let shown = [];
  let next = null;
  let latest = 0;

  more.addEventListener("click", asking(() => load(next)));

  async function load(cursor = null) {
    const turn = ++latest;
    const limit = cursor ? PAGE : Math.min(Math.max(shown.length, PAGE), MOST);
    try {
      const page = await read({ cursor, limit });
      if (turn !== latest) return; // a newer look is under way
      const before = cursor ? shown : [];
      shown = [...before, ...page.items];
      const held = [...rows.children].find((row) => row.contains(document.activeElement));
      keep(rows, shown, { key: (item) => item.id, signature, create });
      if (cursor) linkOf(page.items[0]?.id)?.focus();
      next = page.next;
      more.hidden = !next;
      onShown(shown);
      if (held && !held.isConnected) (linkOf(held.dataset.key) ?? rest()).focus({ preventScroll: true });
    } catch (error) {
      if (!signal.aborted) onError(error);
    }
  }

  const linkOf = (key) => [...rows.children].find((row) => row.dataset.key === key)?.querySelector("a");

  return { refresh: () => load() };
}
