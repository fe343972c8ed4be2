// Redrives or discards the dead letters of a row. One request is enough if the service can select exactly these dead
// letters. Otherwise each dead letter gets its own request.

import { discardDeadLetter, discardSelection, redriveDeadLetter, redriveSelection } from "/static/api.js";

/** Redrive the waiting dead letters of `row`; resolve to their number. `selectable` is the result of isSelectable. */
export async function redriveRow(row, selectable, signal) {
  if (selectable) return (await redriveSelection(selectionOf(row), signal)).dead_letters;
  return oneByOne(row.filter(({ state }) => state === "waiting"), (id) => redriveDeadLetter(id, signal));
}

/** Discard the dead letters of `row`, and resolve to their number. `selectable` is the result of isSelectable. */
export async function discardRow(row, selectable, signal) {
  if (selectable) return (await discardSelection(selectionOf(row), signal)).dead_letters;
  return oneByOne(row, (id) => discardDeadLetter(id, signal));
}

/**
 * Whether a selection by job and error code selects exactly the dead letters of `row`. The selection is too wide if
 * another row has the same job and code, or if the page has not loaded all dead letters. A single dead letter needs no
 * selection, so the result is then false. `loaded` are the dead letters on the page. `complete` is true if the service
 * has no further dead letters.
 */
export function isSelectable(row, loaded, complete) {
  const { job, code } = selectionOf(row);
  return row.length > 1 && complete && loaded.filter((one) => one.job === job && one.error.code === code).length === row.length;
}

const selectionOf = ([{ job, error }]) => ({ job, code: error.code });

// Returns the number of dead letters that `request` changed. In a row of several dead letters, one that another user
// has closed in the meantime is skipped without an error.
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
