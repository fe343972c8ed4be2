// One dead letter: which step of which photo was given up, why, and all that befell it.

import { el, icon } from "/static/element.js";
import { happening, moment, tries } from "/static/format.js";

const TRIES = ["failed", "crashed", "lost"];

/** The list item of a letter; `on` hears redrive and discard. */
export function letterRow(letter, titles, on) {
  const { step, source_name: name, error, history } = letter;
  const redriving = letter.state === "redriving";
  return el("li", { class: "letter" },
    el("div", { class: "letter-what" },
      el("h3", {}, el("a", { href: `#/jobs/${letter.job}` }, name)),
      el("p", { class: "letter-step" }, el("strong", {}, step), el("span", { class: "quiet" }, ` ${titles.get(letter.op) ?? letter.op}`)),
      el("p", { class: "letter-when mono" },
        el("time", { datetime: letter.created_at }, moment(letter.created_at)), `, ${tries(count(history))}`)),
    el("div", { class: "letter-tools" },
      redriving
        ? el("span", { class: "state badge" }, icon("queued"), "redriving")
        : el("button", { type: "button", class: "button", "aria-label": `Redrive ${step} of ${name}`, on: { click: on.redrive } }, "Redrive"),
      el("button", { type: "button", class: "button", "aria-label": `Discard ${step} of ${name}`, on: { click: on.discard } }, "Discard")),
    el("div", { class: "letter-error" }, problem(error)),
    el("details", { class: "letter-history" }, el("summary", {}, "History"), el("ol", { role: "list" }, history.map(event))));
}

function event({ at, what, attempt, error }) {
  return el("li", {},
    el("time", { datetime: at }, moment(at)),
    el("div", {},
      el("p", {}, el("strong", {}, happening(what)), TRIES.includes(what) && el("span", { class: "quiet" }, `, attempt ${attempt}`)),
      TRIES.includes(what) && error && problem(error)));
}

function problem({ title, detail }) {
  return [el("p", {}, title), detail !== title && el("p", { class: "quiet" }, detail)];
}

const count = (history) => history.filter(({ what }) => TRIES.includes(what)).length;
