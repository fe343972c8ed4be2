// The open dead letters, newest first, with buttons to redrive or discard them.

import { announce } from "/static/announce.js";
import { discardSelection, getDeadLetters, redriveSelection } from "/static/api.js";
import { deadLetterRow, rowKey } from "/static/dead-letter.js";
import { discardRow, isSelectable, redriveRow } from "/static/dead-letter-actions.js";
import { plural } from "/static/format.js";
import { pagedList } from "/static/paged-list.js";
import { showProblem } from "/static/problem.js";
import { confirmed } from "/static/question.js";
import { reporting } from "/static/reporting.js";

// After a redrive, the list is refreshed after each of these pauses. A redriven step that fails again gets a new dead
// letter, which should appear soon.
const REFRESH_AFTER_MS = [500, 1000, 2000, 4000, 8000, 16_000];

const at = (id) => document.getElementById(id);

/**
 * Show the open dead letters. `onRedrive` is called when steps will run again. `onChange` is called each time that jobs
 * or dead letters may have changed. Returns {refresh()}.
 */
export function deadLetters({ signal, titles, onRedrive, onChange }) {
  let loaded = [];
  let complete = false; // whether `loaded` has all open dead letters of the service
  let timer = null;

  const action = reporting({
    box: at("dead-letters-problem"),
    signal,
    after: () => { onChange(); return list.refresh(); },
  });

  const list = pagedList({
    rows: at("dead-letter-list"),
    more: at("dead-letters-more"),
    signal,
    read: (query) => readPage(query, signal),
    keyOf: rowKey,
    version: (row) => JSON.stringify(row.map(({ id, state }) => [id, state])),
    createRow: (row) => deadLetterRow(row, titles, {
      redrive: action(async () => afterRedrive(await redriveRow(row, isSelectable(row, loaded, complete), signal))),
      discard: action(async () => afterDiscard(await discardRow(row, isSelectable(row, loaded, complete), signal))),
    }),
    focusFallback,
    onShown: (items, isComplete) => {
      [loaded, complete] = [items, isComplete];
      showSection(items.length > 0);
    },
    onError: (error) => showProblem(at("dead-letters-problem"), error),
  });

  at("redrive-all").addEventListener("click", action(async () => {
    afterRedrive((await redriveSelection({ all: true }, signal)).dead_letters);
  }));
  at("discard-all").addEventListener("click", action(async () => {
    if (!await confirmed(at("discard-question"))) return;
    afterDiscard((await discardSelection({ all: true }, signal)).dead_letters);
  }));

  function afterRedrive(count) {
    announce(`${plural(count, "dead letter")} redriven`);
    onRedrive();
    refreshLater(REFRESH_AFTER_MS);
  }

  function refreshLater([ms, ...rest]) {
    clearTimeout(timer);
    if (ms) timer = setTimeout(() => { refreshLater(rest); onChange(); list.refresh(); }, ms);
  }

  return list;
}

async function readPage(query, signal) {
  const { dead_letters: items, next } = await getDeadLetters(query, signal);
  return { items, next };
}

function showSection(visible) {
  const hadFocus = at("dead-letters").contains(document.activeElement);
  at("dead-letters").hidden = !visible;
  if (hadFocus && !visible) focusFallback().focus({ preventScroll: true });
}

function afterDiscard(count) {
  announce(`${plural(count, "dead letter")} discarded`);
}

function focusFallback() {
  return at(at("dead-letters").hidden ? "history-heading" : "dead-letters-heading");
}
