// One step of the builder: name, input, parameters, and its place in the row.

import { el, icon } from "/static/element.js";
import { SOURCE } from "/static/draft.js";
import { fields } from "/static/field.js";

/** {step, node, refresh(), fail(path, detail), clear()}; `on` hears change, move(by) and remove. */
export function stepCard(draft, step, on) {
  const operation = draft.operation(step);
  const form = fields(operation.parameters, { files: draft.files });
  form.write(step.params);
  step.params = form.read();

  const number = el("span", { class: "step-number", "aria-hidden": "true" });
  const error = el("p", { class: "field-error", id: `${step.key}-error`, hidden: true });
  const name = el("input", {
    id: `${step.key}-name`, type: "text", value: step.name, required: true, maxlength: 64, spellcheck: "false", autocomplete: "off",
    on: { input: () => { step.name = name.value.trim(); on.change(); } },
  });
  const input = draft.takesMany(step) ? bundle(draft, step, on.change) : reader(draft, step, on.change);
  const up = button("up", "Up", () => on.move(-1));
  const down = button("down", "Down", () => on.move(1));
  const remove = button("remove", "Remove", on.remove);
  const parameters = el("div", { class: "step-parameters", on: { input: () => { step.params = form.read(); on.change(); } } }, form.nodes);

  const card = el("div", { class: "step-card", role: "group", "aria-describedby": error.id },
    el("div", { class: "step-head" }, number, el("h3", {}, operation.title), el("div", { class: "step-tools" }, up, down, remove)),
    el("p", { class: "hint" }, operation.summary),
    el("div", { class: "step-wiring" },
      el("div", { class: "field" }, el("label", { for: name.id }, "Name"), name), input.node),
    form.nodes.length > 0 && parameters, error);
  const node = el("li", {}, card);

  const clear = () => { error.hidden = true; error.textContent = ""; form.clear(); card.classList.remove("refused"); };
  card.addEventListener("input", () => card.classList.remove("refused"));
  return {
    step, node, clear,
    refresh: () => {
      number.textContent = draft.steps.indexOf(step) + 1;
      card.setAttribute("aria-label", `Step ${step.name}`);
      name.setCustomValidity(nameFault(draft, step));
      for (const [tool, by, word] of [[up, -1, "up"], [down, 1, "down"]]) {
        const stuck = draft.stuck(step, by);
        tool.setAttribute("aria-disabled", Boolean(stuck));
        tool.setAttribute("aria-label", `Move ${step.name} ${word}${stuck ? `: ${stuck}` : ""}`);
        tool.title = stuck ?? `Move ${word}`;
      }
      remove.setAttribute("aria-label", `Remove ${step.name}`);
      input.refresh();
    },
    /** Show a refusal at the parameter that `path` leads to, else on the card, and answer what to focus. */
    fail: (path, detail) => {
      card.classList.add("refused");
      const found = form.locate(path);
      if (found) {
        found.fail(detail);
        return found;
      }
      error.textContent = [error.textContent, detail].filter(Boolean).join(" · ");
      error.hidden = false;
      return { focus: () => (parameters.querySelector("input, select, textarea") ?? name).focus() };
    },
  };
}

function reader(draft, step, onChange) {
  const select = el("select", { id: `${step.key}-input`, on: { change: () => { step.input = select.value; onChange(); } } });
  const node = el("div", { class: "field" }, el("label", { for: select.id }, "Input"), select);
  const refresh = () => {
    const candidates = draft.candidates(step);
    const options = [[SOURCE, "source (your photo)"], ...candidates.map((other) => [other.key, other.name])];
    select.replaceChildren(...options.map(([value, words]) => el("option", { value }, words)));
    select.value = step.input;
  };
  return { node, refresh };
}

function bundle(draft, step, onChange) {
  const boxes = el("div", { class: "ticks" });
  const node = el("fieldset", { class: "field group" }, el("legend", {}, "Inputs"), boxes);
  const tick = () => {
    step.input = [...boxes.querySelectorAll("input:checked")].map((box) => box.value);
    onChange();
  };
  const refresh = () => {
    const taken = draft.taken(step);
    const focused = boxes.contains(document.activeElement) ? document.activeElement.value : null;
    boxes.replaceChildren(...draft.candidates(step).map((other) => {
      const box = el("input", { type: "checkbox", value: other.key, on: { change: tick } });
      box.checked = taken.includes(other.key);
      return el("label", { class: "tick" }, box, other.name);
    }));
    if (!boxes.children.length) boxes.append(el("p", { class: "hint" }, "Nothing above this step to bundle yet."));
    if (focused) boxes.querySelector(`input[value="${focused}"]`)?.focus();
  };
  return { node, refresh };
}

// aria-disabled instead of disabled: focus must not be lost when a step reaches the end of the row.
function button(shape, word, act) {
  const self = el("button", {
    type: "button", class: "tool", on: { click: () => self.getAttribute("aria-disabled") !== "true" && act() },
  }, icon(shape), el("span", { class: "tool-word" }, word));
  return self;
}

function nameFault(draft, step) {
  if (step.name === SOURCE) return "“source” is the photo itself: choose another name.";
  const twin = draft.steps.some((other) => other !== step && other.name === step.name);
  return twin ? `Two steps are called ${step.name}: change one of the names.` : "";
}
