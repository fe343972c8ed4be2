// The secret of an endpoint. The service sends it only once, so this page shows it until the user hides it.

import { announce } from "/static/announce.js";
import { formatTime } from "/static/format.js";

const at = (id) => document.getElementById(id);

/**
 * Prepare the box for secrets. When the user hides a secret, `focusAfter` gets the focus. Returns {show(), hide(owner)}:
 * `hide` hides the secret of `owner`, or every secret without an `owner`.
 */
export function secretBox(focusAfter) {
  let shownOwner = null;

  at("secret-copy").addEventListener("click", copy);
  at("secret-done").addEventListener("click", () => {
    hide();
    focusAfter.focus();
  });

  function hide(owner = shownOwner) {
    if (owner !== shownOwner) return;
    at("secret").hidden = true;
    at("secret-text").textContent = "";
    shownOwner = null;
  }

  /** Show the secret of `owner`. If an earlier secret still signs, `previousUntil` is the end of this time. */
  function show(owner, secret, previousUntil = null) {
    shownOwner = owner;
    at("secret-title").textContent = `Secret of ${owner}`;
    at("secret-text").textContent = secret;
    at("secret-copy").textContent = "Copy the secret";
    at("secret-note").textContent = "Copy it now, because it is not shown again. A receiver needs it to check the signatures."
      + (previousUntil ? ` The previous secret also signs until ${formatTime(previousUntil)}.` : "");
    at("secret").hidden = false;
    at("secret-title").focus();
  }

  return { show, hide };
}

// On a page that comes from another host through plain http, browsers have no clipboard. The secret is then selected.
async function copy() {
  try {
    await navigator.clipboard.writeText(at("secret-text").textContent);
    at("secret-copy").textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(at("secret-text"));
    at("secret-copy").textContent = "Press Ctrl+C to copy";
  }
  announce(at("secret-copy").textContent);
}
