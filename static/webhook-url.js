// The field for the webhook URL of the next job. It is optional, so it is folded until it has a value.

import { markedField } from "/static/marked-field.js";

const control = document.getElementById("webhook-url");

/** Let the user edit the webhook URL of `draft`. `onChange` is called after each change. Returns a marked field. */
export function webhookUrlField({ draft, onChange }) {
  control.addEventListener("input", () => { draft.webhookUrl = control.value; onChange(); });
  const self = { ...markedField(control), show };

  function show(url) {
    draft.webhookUrl = url;
    control.value = url;
    control.closest("details").open = Boolean(url);
  }

  show(draft.webhookUrl);
  return self;
}
