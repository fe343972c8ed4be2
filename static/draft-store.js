// The steps being built, kept in this tab over a reload until a job has taken them.

const KEY = "pixtools-steps";

export const draftStore = {
  save: (draft) => attempt(() => sessionStorage.setItem(KEY, JSON.stringify(draft.steps))),
  restore: (draft) => attempt(() => draft.restore(JSON.parse(sessionStorage.getItem(KEY)) ?? [])),
  clear: () => attempt(() => sessionStorage.removeItem(KEY)),
};

// A browser may forbid storage, and what an older page stored may not fit: then the steps just start empty.
function attempt(act) {
  try {
    act();
  } catch (error) {
    console.warn("The steps are not kept over a reload.", error);
  }
}
