// The form that registers a webhook endpoint.

import { announce } from "/static/announce.js";
import { createWebhook } from "/static/api.js";
import { el, fill } from "/static/element.js";
import { markedField } from "/static/marked-field.js";
import { showFormProblem } from "/static/problem.js";
import { whileBusy } from "/static/while-busy.js";

// The same events as CHOSEN_EVENTS in pixtools/webhooks/events.py, and whether an endpoint gets them by default.
const EVENTS = {
  "job.succeeded": true, "job.partial": true, "job.failed": true, "job.cancelled": true, "dead_letter.created": false,
};

const at = (id) => document.getElementById(id);

/** Let the form register endpoints. `onRegistered` is called with each new endpoint, which has its secret. */
export function webhookForm({ signal, onRegistered }) {
  const form = at("webhook-form");
  const problem = at("webhook-form-problem");
  fill(at("endpoint-events"), Object.entries(EVENTS).map(([event, checked]) =>
    el("label", { class: "checkbox" }, el("input", { type: "checkbox", value: event, checked }), event)));
  const fields = {
    url: markedField(at("endpoint-url")),
    events: markedField(at("endpoint-events")),
    description: markedField(at("endpoint-description")),
    include_urls: markedField(at("endpoint-include-urls")),
  };

  const register = whileBusy(async () => {
    problem.hidden = true;
    Object.values(fields).forEach((field) => field.clear());
    try {
      const endpoint = await createWebhook(read(), signal);
      form.reset();
      at("webhook-new").open = false;
      announce("Endpoint registered");
      onRegistered(endpoint);
    } catch (error) {
      // The pointer of a fault in the body begins with /body.
      if (!signal.aborted) showFormProblem(problem, error, ([, name], detail) => fields[name]?.fail(detail) ?? null);
    }
  });

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    register({ currentTarget: at("webhook-register") });
  });
}

function read() {
  return {
    url: at("endpoint-url").value.trim(),
    events: [...at("endpoint-events").querySelectorAll("input:checked")].map((box) => box.value),
    description: at("endpoint-description").value,
    include_urls: at("endpoint-include-urls").checked,
  };
}
