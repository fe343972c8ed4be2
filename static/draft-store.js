// Stores the draft's steps in this browser tab, so that they survive a reload.

const KEY = "pixtools-steps";

/** The functions save(draft), restore(draft) and clear(). They never throw. */
export const draftStore = {
  save: (draft) => attempt(() => sessionStorage.setItem(KEY, JSON.stringify(draft.steps))),
  restore: (draft) => attempt(() => draft.restore(JSON.parse(sessionStorage.getItem(KEY)) ?? [])),
  clear: () => attempt(() => sessionStorage.removeItem(KEY)),
};

// The browser may forbid storage, or an older version of the page may have stored another format. The draft then starts
// empty.
function attempt(action) {
  try {
    action();
  } catch (error) {
    console.warn("The steps will not survive a reload.", error);
  }
}
