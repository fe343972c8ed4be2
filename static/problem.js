// Shows errors. A fault in a form field is shown at this field. All other errors are shown in one box.

import { Problem, Unreachable } from "/static/api.js";
import { announce } from "/static/announce.js";
import { el, fill, prose } from "/static/element.js";
import { plural } from "/static/format.js";

/**
 * Show why a form was refused. `mark(path, detail)` shows a fault at the field to which the pointer of the fault leads,
 * and returns this field, or null if the form has no such field. All other faults are shown in `box`. The focus goes to
 * the first marked field of the page, or to `box` if no field is marked.
 */
export function showFormProblem(box, error, mark) {
  const { title, detail, errors, wait } = describe(error);
  const marked = [];
  const others = [];
  for (const fault of errors) {
    const [, ...path] = (fault.pointer ?? "").split("/").map(unescape);
    const field = mark(path, fault.detail);
    if (field) marked.push(field);
    else if (fault.detail !== detail) others.push(fault);
  }
  const places = new Set(marked).size;
  fill(box,
    el("h3", {}, title),
    detail && el("p", {}, prose(detail)),
    faultList(others),
    places > 0 && el("p", {}, `${plural(places, "field")} marked in the form.`),
    wait && el("p", {}, wait));
  box.hidden = false;
  announce([title, detail].filter(Boolean).join(": ").replaceAll("`", ""));
  (firstOnPage(marked) ?? box).focus();
}

/** Show `error` in `box`, which has the role alert. If `again` is given, a button hides `box` and calls `again`. */
export function showProblem(box, error, again = null) {
  const { title, detail, errors, wait } = describe(error);
  const retry = () => { box.hidden = true; again(); };
  fill(box, el("h3", {}, title), detail && el("p", {}, prose(detail)), faultList(errors), wait && el("p", {}, wait),
    again && el("button", { type: "button", class: "button", on: { click: retry } }, "Try again"));
  box.hidden = false;
}

/** Describe any error as {title, detail, errors, wait}. `errors` are the faults, `wait` says how long to wait. */
export function describe(error) {
  if (error instanceof Problem) {
    const wait = error.retryAfter && `Wait ${plural(error.retryAfter, "second")}, then try again.`;
    return { title: error.title ?? "The service refused the request", detail: error.detail, errors: error.errors, wait };
  }
  if (error instanceof Unreachable) {
    return { title: "The service cannot be reached", detail: "Check the connection and try again. Your input is not lost.", errors: [] };
  }
  console.error(error);
  return { title: "This page has a bug", detail: "Reload the page and try again.", errors: [] };
}

function faultList(errors) {
  const text = ({ pointer, detail }) => (pointer ? `${pointer.slice(1)}: ${detail}` : detail);
  return errors.length > 0 && el("ul", {}, errors.map((fault) => el("li", {}, prose(text(fault)))));
}

// The service sorts faults by their type, but the focus must go to the first field with a fault on the page.
function firstOnPage(fields) {
  const follows = (one, other) => one.node.compareDocumentPosition(other.node) & Node.DOCUMENT_POSITION_PRECEDING;
  return fields.reduce((first, field) => (first && !follows(first, field) ? first : field), null);
}

// RFC 6901: "~1" is "/" and "~0" is "~", decoded in this order.
function unescape(token) {
  return token.replaceAll("~1", "/").replaceAll("~0", "~");
}
