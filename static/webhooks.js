// The view of webhooks: the registered endpoints, and the log of deliveries.

import { rotateSecretOfJobs } from "/static/api.js";
import { deliveries } from "/static/deliveries.js";
import { pause } from "/static/pause.js";
import { confirmedRotation } from "/static/question.js";
import { reporting } from "/static/reporting.js";
import { secretBox } from "/static/secret.js";
import { webhookForm } from "/static/webhook-form.js";
import { webhookList } from "/static/webhook-list.js";

const REFRESH_INTERVAL_MS = 5000;
const OF_JOBS = "the webhook URLs of jobs";

const at = (id) => document.getElementById(id);

/** Prepare the view. `onFailure` is called when a delivery has failed. Returns {watch}. */
export function webhooks({ signal, onFailure }) {
  const secret = secretBox(at("webhooks-title"));
  const log = deliveries({ signal, onFailure });
  const list = webhookList({ signal, secret, onShown: log.offer, onChange: log.refresh });
  const action = reporting({ box: at("webhooks-problem"), signal, after: () => {} });

  webhookForm({
    signal,
    onRegistered: (endpoint) => {
      secret.show(endpoint.url, endpoint.secret);
      list.refresh();
    },
  });
  at("secret-of-jobs").addEventListener("click", action(async () => {
    if (!await confirmedRotation(OF_JOBS)) return;
    const { secret: text, previous_secret_until: until } = await rotateSecretOfJobs(signal);
    secret.show(OF_JOBS, text, until);
  }));

  /** Load the endpoints and the deliveries again every few seconds, until `viewing` aborts. */
  async function watch(viewing) {
    try {
      for (;;) {
        if (!document.hidden) await Promise.all([list.refresh(), log.refreshShort()]);
        await pause(REFRESH_INTERVAL_MS, viewing);
      }
    } catch (error) {
      if (!viewing.aborted) throw error;
      secret.hide(); // somebody else may look at the screen later
    }
  }

  return { watch };
}
