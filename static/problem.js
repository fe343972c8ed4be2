// A refusal in words: at the step or parameter it is about where that is known, else in one box.

import { Problem, Unreachable } from "/static/api.js";
import { announce } from "/static/announce.js";
import { el, fill } from "/static/element.js";
import { plural } from "/static/format.js";

/** Show `error` in `box`, and each entry that names a step at that step's card. Focus goes to the first of them. */
export function showRefusal(box, error, builder) {
  const { title, detail, errors, wait } = describe(error);
  const placed = [];
  const others = errors.filter(({ pointer = "", detail: words }) => {
    const [, area, name, ...path] = pointer.split("/").map(unescape);
    const card = area === "steps" && name !== undefined ? builder.named(name) : builder.naming(area);
    if (card) placed.push(card.fail(path, words));
    return !card && words !== detail;
  });
  fill(box,
    el("h3", {}, title),
    detail && el("p", {}, detail),
    others.length > 0 && el("ul", {}, others.map((entry) => el("li", {}, entry.detail))),
    placed.length > 0 && el("p", {}, `${plural(placed.length, "place")} marked in the steps.`),
    wait && el("p", {}, wait));
  box.hidden = false;
  announce([title, detail].filter(Boolean).join(": "));
  (placed[0] ?? box).focus();
}

/** Show `error` in `box`, which is an alert; with a button where something may be tried `again`. */
export function showProblem(box, error, again = null) {
  const { title, detail, wait } = describe(error);
  const retry = () => { box.hidden = true; again(); };
  fill(box, el("h3", {}, title), detail && el("p", {}, detail), wait && el("p", {}, wait),
    again && el("button", { type: "button", class: "button", on: { click: retry } }, "Try again"));
  box.hidden = false;
}

/** Any error of api.js as {title, detail, errors, wait}. */
export function describe(error) {
  if (error instanceof Problem) {
    const wait = error.retryAfter && `Wait ${plural(error.retryAfter, "second")}, then try again.`;
    return { title: error.title ?? "The service refused", detail: error.detail, errors: error.errors, wait };
  }
  if (error instanceof Unreachable) {
    return { title: "The service cannot be reached", detail: "Check the connection and try again. Nothing you entered is lost.", errors: [] };
  }
  console.error(error);
  return { title: "The page made a mistake", detail: "Reload it and try again.", errors: [] };
}

// RFC 6901: "~1" is "/" and "~0" is "~", in that order.
function unescape(part) {
  return part.replaceAll("~1", "/").replaceAll("~0", "~");
}
