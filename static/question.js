// Questions before an action that cannot be undone.

/**
 * Open a dialog whose form has the method "dialog". Resolves to true if the user presses a button with a value, and to
 * false if the user presses another button or Escape.
 */
export function confirmed(dialog) {
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue !== ""), { once: true });
  });
}

/** Ask whether the secret of `owner` shall be replaced. Resolves as `confirmed` does. */
export function confirmedRotation(owner) {
  document.getElementById("rotate-owner").textContent = owner;
  return confirmed(document.getElementById("rotate-question"));
}
