// Stores the draft in this browser tab, so that it survives a reload.

const KEY = "pixtools-draft";

/** The functions save(draft), restore(draft) and clear(). They never throw. */
export const draftStore = {
  save: (draft) => attempt(() => sessionStorage.setItem(KEY, JSON.stringify({ steps: draft.steps, webhookUrl: draft.webhookUrl }))),
  restore: (draft) => attempt(() => {
    const stored = sessionStorage.getItem(KEY);
    if (stored) draft.restore(JSON.parse(stored));
  }),
  clear: () => attempt(() => sessionStorage.removeItem(KEY)),
};

// The browser may forbid storage, or an older version of the page may have stored another format. The draft then starts
// empty.
function attempt(action) {
  try {
    action();
  } catch (error) {
    console.warn("The draft will not survive a reload.", error);
  }
}
