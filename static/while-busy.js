// Click listeners for buttons that send a request.

/**
 * Make a click listener that runs `action` and ignores further clicks until `action` is done. The button is marked with
 * aria-disabled, because `disabled` would take the focus away.
 */
export const whileBusy = (action) => async ({ currentTarget: button }) => {
  if (button.getAttribute("aria-disabled") === "true") return;
  button.setAttribute("aria-disabled", "true");
  try {
    await action();
  } finally {
    button.removeAttribute("aria-disabled");
  }
};
