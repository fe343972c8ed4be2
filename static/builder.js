// The list of steps: buttons that add steps, and one card for each step. The card of a step is never replaced, so the
// card loses no input of the user.

import { announce } from "/static/announce.js";
import { el, fill } from "/static/element.js";
import { palette } from "/static/palette.js";
import { stepCard } from "/static/step-card.js";
import { suggestions } from "/static/suggestions.js";

const at = (id) => document.getElementById(id);

/** The step list of `draft`. `onChange` is called after each change of the draft. */
export class Builder {
  #draft;
  #onChange;
  #buttons;
  #cards = new Map();

  constructor({ draft, operations, onChange }) {
    this.#draft = draft;
    this.#onChange = onChange;
    this.#buttons = palette(operations, (operation) => this.#add(operation));
    fill(at("suggestions"), suggestions(operations).map(({ title, steps }) => el("button", {
      type: "button", class: "button", on: { click: () => this.load(steps) },
    }, title)));
    this.#refresh();
  }

  /** Replace all steps by the steps of a job. */
  load(steps) {
    const unknown = this.#draft.load(steps);
    this.#refresh();
    announce(unknown.length ? `Steps loaded. Left out, because this service does not have their operations: ${unknown.join(", ")}` : "Steps loaded");
  }

  /** Remove from all cards the faults that the service found. */
  clearFaults() {
    this.#cards.forEach((card) => card.clear());
  }

  /** The card of the step with this name, or null. The `fail` method of the card shows a fault. */
  cardOfStep(name) {
    return [...this.#cards.values()].find(({ step }) => step.name === name) ?? null;
  }

  /**
   * An object for the card of the step that uses this part, or null. The `fail` method of the object shows a fault at
   * the parameter whose value is the name of the part.
   */
  cardOfPart(part) {
    const [step, parameter] = this.#draft.userOfPart(part) ?? [];
    return step ? { fail: (_, detail) => this.#cards.get(step.key).fail([parameter], detail) } : null;
  }

  #add(operation) {
    const step = this.#draft.add(operation.op);
    this.#refresh();
    announce(`${step.name} added as step ${this.#draft.steps.indexOf(step) + 1}`);
  }

  #move(step, by) {
    const focused = document.activeElement;
    this.#draft.move(step, by);
    this.#refresh();
    focused.focus();
    announce(`${step.name} is now step ${this.#draft.steps.indexOf(step) + 1}`);
  }

  #remove(step) {
    const index = this.#draft.steps.indexOf(step);
    this.#draft.remove(step);
    this.#refresh();
    announce(`${step.name} removed`);
    const next = this.#draft.steps[Math.min(index, this.#draft.steps.length - 1)];
    (next ? this.#cards.get(next.key).node.querySelector(".tool:last-child") : document.querySelector("#operations button")).focus();
  }

  #cardOf(step) {
    if (!this.#cards.has(step.key)) {
      this.#cards.set(step.key, stepCard(this.#draft, step, {
        change: () => this.#refresh(), move: (by) => this.#move(step, by), remove: () => this.#remove(step),
      }));
    }
    return this.#cards.get(step.key);
  }

  #refresh() {
    const { steps } = this.#draft;
    const keys = new Set(steps.map((step) => step.key));
    for (const key of this.#cards.keys()) if (!keys.has(key)) this.#cards.delete(key);
    const cards = steps.map((step) => this.#cardOf(step));
    replaceIfDifferent(at("steps"), cards.map(({ node }) => node));
    cards.forEach((card) => card.refresh());
    this.#buttons.count(steps);
    at("no-steps").hidden = steps.length > 0;
    this.#onChange();
  }
}

// A card that is inserted again loses the focus. So the list stays as it is if its cards are already in this order.
function replaceIfDifferent(list, nodes) {
  if (nodes.length !== list.children.length || nodes.some((node, i) => node !== list.children[i])) list.replaceChildren(...nodes);
}
