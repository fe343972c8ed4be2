// The row of steps: buttons that add, cards that edit. Cards live as long as their step, so typing is never lost.

import { announce } from "/static/announce.js";
import { el, fill } from "/static/element.js";
import { palette } from "/static/palette.js";
import { stepCard } from "/static/step-card.js";
import { suggestions } from "/static/suggestions.js";

export function builder({ draft, operations, onChange }) {
  const row = document.getElementById("steps");
  const empty = document.getElementById("no-steps");
  const cards = new Map();
  const choices = palette(operations, add);

  fill(document.getElementById("suggestions"), suggestions(operations).map(({ title, steps }) => el("button", {
    type: "button", class: "button", on: { click: () => load(steps) },
  }, title)));

  function add(operation) {
    const step = draft.add(operation.op);
    refresh();
    announce(`${step.name} added as step ${draft.steps.indexOf(step) + 1}`);
  }

  function load(steps) {
    const unknown = draft.load(steps);
    refresh();
    announce(unknown.length ? `Left out, for this service lacks their operation: ${unknown.join(", ")}` : "Steps loaded");
  }

  function card(step) {
    const self = stepCard(draft, step, {
      change: refresh,
      move: (by) => {
        const focused = document.activeElement;
        draft.move(step, by);
        refresh();
        focused.focus();
        announce(`${step.name} is now step ${draft.steps.indexOf(step) + 1}`);
      },
      remove: () => {
        const at = draft.steps.indexOf(step);
        draft.remove(step);
        refresh();
        announce(`${step.name} removed`);
        const next = draft.steps[Math.min(at, draft.steps.length - 1)];
        (next ? cards.get(next.key).node.querySelector(".tool:last-child") : document.querySelector("#operations button")).focus();
      },
    });
    cards.set(step.key, self);
    return self;
  }

  function refresh() {
    const keys = new Set(draft.steps.map((step) => step.key));
    for (const key of cards.keys()) if (!keys.has(key)) cards.delete(key);
    const shown = draft.steps.map((step) => cards.get(step.key) ?? card(step));
    const nodes = shown.map(({ node }) => node);
    if (nodes.length !== row.children.length || nodes.some((node, i) => node !== row.children[i])) row.replaceChildren(...nodes);
    shown.forEach((one) => one.refresh());
    choices.count(draft.steps);
    empty.hidden = draft.steps.length > 0;
    onChange();
  }

  refresh();
  return {
    load,
    clearProblems: () => cards.forEach((one) => one.clear()),
    /** The card of the step with this name, to show a refusal at. */
    named: (name) => [...cards.values()].find(({ step }) => step.name === name) ?? null,
    /** The same for the parameter that names this part of the request. */
    naming: (part) => {
      const [step, parameter] = draft.naming(part) ?? [];
      return step ? { fail: (_, detail) => cards.get(step.key).fail([parameter], detail) } : null;
    },
  };
}
