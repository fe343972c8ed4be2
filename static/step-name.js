// The field for the name of a step. While the user types, the field checks the name with the rules of the service.

import { el } from "/static/element.js";
import { errorLine } from "/static/error-line.js";

/**
 * Create the name field of `step`. Returns {node, refresh(), fail(detail), clear(), focus()}. `onChange` is called
 * after each change of the name.
 */
export function stepName(draft, step, onChange) {
  const id = `${step.key}-name`;
  const input = el("input", {
    id, type: "text", required: true, value: step.name, maxlength: 64, spellcheck: "false", autocomplete: "off", "aria-describedby": `${id}-error`,
    on: { input: () => { answer = []; step.name = input.value.trim(); onChange(); } },
  });
  const error = errorLine(`${id}-error`, input);
  const node = el("div", { class: "field" }, el("label", { for: id }, "Name"), input, error.node);
  let answer = []; // the faults that the service found in this name

  function refresh() {
    const fault = draft.nameFault(step);
    input.setCustomValidity(fault ?? "");
    if (fault || answer.length) error.show(fault ?? answer.join(" · "));
    else error.clear();
  }

  return {
    node, refresh,
    fail: (detail) => { answer.push(detail); refresh(); },
    clear: () => { answer = []; refresh(); },
    focus: () => input.focus(),
  };
}
