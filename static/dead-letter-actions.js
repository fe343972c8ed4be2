// Redrives or discards the dead letters of a row: by one request if the service can select exactly these, else one by one.

import { discardDeadLetter, discardSelection, redriveDeadLetter, redriveSelection } from "/static/api.js";

/** Redrive the waiting dead letters of `row`, and resolve to their number. `selectable` is the answer of isSelectable for this row. */
export async function redriveRow(row, selectable, signal) {
  if (selectable) return (await redriveSelection(selectionOf(row), signal)).dead_letters;
  return oneByOne(row.filter(({ state }) => state === "waiting"), (id) => redriveDeadLetter(id, signal));
}

/** Discard the dead letters of `row`, and resolve to their number. `selectable` is the answer of isSelectable for this row. */
export async function discardRow(row, selectable, signal) {
  if (selectable) return (await discardSelection(selectionOf(row), signal)).dead_letters;
  return oneByOne(row, (id) => discardDeadLetter(id, signal));
}

/**
 * Whether job and code select exactly the dead letters of `row`. They would also select other rows with the same code, and dead letters
 * that the page has not loaded. `loaded` are the dead letters on the page, and `complete` is true if the service has no others.
 */
export function isSelectable(row, loaded, complete) {
  const { job, code } = selectionOf(row);
  return row.length > 1 && complete && loaded.filter((one) => one.job === job && one.error.code === code).length === row.length;
}

const selectionOf = ([{ job, error }]) => ({ job, code: error.code });

// Returns the number of dead letters that `request` changed. It is no error if another user has closed one of them in the meantime.
async function oneByOne(row, request) {
  let changed = 0;
  for (const { id } of row) {
    try {
      await request(id);
      changed += 1;
    } catch (error) {
      if (row.length === 1 || error.code !== "dead_letter_closed") throw error;
    }
  }
  return changed;
}
