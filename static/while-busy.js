// Buttons that ask the service for something.

/** A listener that does `act` and keeps its button out of use meanwhile: by aria-disabled, which leaves it its focus. */
export const asking = (act) => async ({ currentTarget: button }) => {
  if (button.getAttribute("aria-disabled") === "true") return;
  button.setAttribute("aria-disabled", "true");
  try {
    await act();
  } finally {
    button.removeAttribute("aria-disabled");
  }
};
