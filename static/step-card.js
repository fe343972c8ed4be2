// One step of the builder: its name, inputs and parameters, and buttons to move or remove it.

import { el, icon } from "/static/element.js";
import { SOURCE } from "/static/draft.js";
import { errorLine } from "/static/error-line.js";
import { fields } from "/static/field.js";
import { stepName } from "/static/step-name.js";

/**
 * Create the card of `step`. Returns {step, node, refresh(), fail(path, detail), clear()}. `on` has the listeners
 * change(), move(by) and remove().
 */
export function stepCard(draft, step, on) {
  const operation = draft.operation(step);
  const form = fields(operation.parameters, { files: draft.files });
  form.write(step.params);
  step.params = form.read();

  const number = el("span", { class: "step-number", "aria-hidden": "true" });
  const error = errorLine(`${step.key}-error`);
  const name = stepName(draft, step, on.change);
  const input = draft.takesMany(step) ? inputBoxes(draft, step, on.change) : inputSelect(draft, step, on.change);
  const up = toolButton("up", "Up", () => on.move(-1));
  const down = toolButton("down", "Down", () => on.move(1));
  const remove = toolButton("remove", "Remove", on.remove);
  const parameters = el("div", { class: "step-parameters", on: { input: () => { step.params = form.read(); on.change(); } } }, form.nodes);

  const card = el("div", { class: "step-card", role: "group", "aria-describedby": error.node.id },
    el("div", { class: "step-head" }, number, el("h3", {}, operation.title), el("div", { class: "step-tools" }, up, down, remove)),
    el("p", { class: "hint" }, operation.summary),
    el("div", { class: "step-wiring" }, name.node, input.node),
    form.nodes.length > 0 && parameters, error.node);
  card.addEventListener("input", () => card.classList.remove("has-fault"));
  const self = {
    node: error.node,
    fail: error.add,
    focus: () => (parameters.querySelector("input, select, textarea") ?? name).focus(),
  };

  return {
    step,
    node: el("li", {}, card),
    clear: () => {
      [error, name, form].forEach((one) => one.clear());
      card.classList.remove("has-fault");
    },
    refresh: () => {
      number.textContent = draft.steps.indexOf(step) + 1;
      card.setAttribute("aria-label", `Step ${step.name}`);
      name.refresh();
      input.refresh();
      showMove(up, "up", step, draft.moveObstacle(step, -1));
      showMove(down, "down", step, draft.moveObstacle(step, 1));
      remove.setAttribute("aria-label", `Remove ${step.name}`);
    },
    /**
     * Show a fault that the service found: at the parameter of `path`, at the name, or at the end of the card. Returns
     * {node, focus()} of the place where the fault is shown.
     */
    fail: (path, detail) => {
      card.classList.add("has-fault");
      const place = form.locate(path) ?? (isAboutName(path, detail) ? name : self);
      place.fail(detail);
      return place;
    },
  };
}

// A fault without a path in the step is about the name of the step, or about a picture that would become too large.
const isAboutName = (path, detail) => path.length === 0 && /\b(re)?name/.test(detail);

function showMove(button, direction, step, obstacle) {
  button.setAttribute("aria-disabled", Boolean(obstacle));
  button.setAttribute("aria-label", `Move ${step.name} ${direction}${obstacle ? `: ${obstacle}` : ""}`);
  button.title = obstacle ?? `Move ${direction}`;
}

function inputSelect(draft, step, onChange) {
  const select = el("select", { id: `${step.key}-input`, on: { change: () => { step.input = select.value; onChange(); } } });
  const node = el("div", { class: "field" }, el("label", { for: select.id }, "Input"), select);
  const refresh = () => {
    const candidates = draft.candidates(step);
    const options = [[SOURCE, "source (your photo)"], ...candidates.map((other) => [other.key, other.name])];
    select.replaceChildren(...options.map(([value, text]) => el("option", { value }, text)));
    select.value = step.input;
  };
  return { node, refresh };
}

function inputBoxes(draft, step, onChange) {
  const boxes = el("div", { class: "checkboxes" });
  const node = el("fieldset", { class: "field group" }, el("legend", {}, "Inputs"), boxes);
  const readBoxes = () => {
    step.input = [...boxes.querySelectorAll("input:checked")].map((box) => box.value);
    onChange();
  };
  const refresh = () => {
    const chosen = draft.inputsOf(step);
    const focused = boxes.contains(document.activeElement) ? document.activeElement.value : null;
    boxes.replaceChildren(...draft.candidates(step).map((other) => {
      const box = el("input", { type: "checkbox", value: other.key, on: { change: readBoxes } });
      box.checked = chosen.includes(other.key);
      return el("label", { class: "checkbox" }, box, other.name);
    }));
    if (!boxes.children.length) boxes.append(el("p", { class: "hint" }, "There is no step above this one to bundle."));
    if (focused) boxes.querySelector(`input[value="${focused}"]`)?.focus();
  };
  return { node, refresh };
}

// With aria-disabled instead of `disabled`, a button keeps the focus when its step cannot move further.
function toolButton(shape, text, action) {
  const button = el("button", {
    type: "button", class: "tool", on: { click: () => button.getAttribute("aria-disabled") !== "true" && action() },
  }, icon(shape), el("span", { class: "tool-text" }, text));
  return button;
}
