// The form controls for single values. Each function returns {control, extra, read(), write(value)}. `extra` is a list
// of further nodes next to the control, and may be missing.
//
// If a control is empty, `read` returns undefined, and the service uses its default. There is one exception. If a
// choice or a colour may be null and its default is another value, the empty control means null, and `read` returns
// null.

import { el } from "/static/element.js";

/** A number field, with a slider if the range is small and a default exists. */
export function number(schema, required) {
  const whole = schema.type === "integer";
  const control = el("input", {
    type: "number", inputmode: whole ? "numeric" : "decimal", max: schema.maximum,
    min: schema.minimum ?? schema.exclusiveMinimum, step: schema.multipleOf ?? (whole ? 1 : "any"),
    required: required && schema.default === undefined, placeholder: schema.default ?? "auto", value: schema.default ?? "",
  });
  const read = () => (control.value === "" ? undefined : Number(control.value));
  const { minimum: least = schema.exclusiveMinimum + increment(schema), maximum: most } = schema;
  const slider = suitsSlider(schema) && el("input", {
    type: "range", min: least, max: most, step: whole ? 1 : increment(schema),
    "aria-label": `${schema.title ?? "Value"} slider`, value: schema.default, on: { input: () => { control.value = slider.value; } },
  });
  const updateSlider = () => { if (slider) slider.value = control.value || schema.default; };
  const write = (value) => { control.value = value ?? ""; updateSlider(); };
  control.addEventListener("input", updateSlider);
  if (!whole) control.addEventListener("keydown", (event) => {
    const direction = { ArrowUp: 1, ArrowDown: -1 }[event.key];
    if (!direction) return;
    event.preventDefault();
    const next = Number(control.value) + direction * increment(schema);
    if (next < least || next > most) return;
    write(Number(next.toFixed(3)));
    dispatchInput(control);
  });
  return { control, extra: slider ? [slider] : [], read, write };
}

// The service accepts any fraction, so the browser must not enforce an increment. Arrow keys and sliders use an
// increment that suits the size of the value.
function increment({ default: usual = 1, minimum = 0, maximum = Infinity }) {
  return 10 ** (Math.floor(Math.log10(Math.min(usual || 1, (maximum - minimum) / 10))) - 1);
}

// The form listens for input events, but a value that a script writes causes no input event.
function dispatchInput(control) {
  control.dispatchEvent(new Event("input", { bubbles: true }));
}

// With a range of up to 200, a slider is quicker than typing. With a range of thousands of pixels, it is too coarse.
function suitsSlider({ minimum, exclusiveMinimum, maximum, default: usual }) {
  return typeof usual === "number" && maximum - (minimum ?? exclusiveMinimum) <= 200;
}

/** A text field. A long text gets a textarea, because an `input` would drop its line breaks. */
export function text(schema, required) {
  const long = schema.maxLength > 100;
  const control = el(long ? "textarea" : "input", {
    ...(long ? { rows: 1 } : { type: "text", pattern: schema.pattern, spellcheck: "false" }),
    required: required && schema.default === undefined, maxlength: schema.maxLength, value: schema.default ?? "",
  });
  return { control, read: () => control.value || undefined, write: (value) => { control.value = value ?? ""; } };
}

/** A checkbox. */
export function toggle(schema) {
  const control = el("input", { type: "checkbox" });
  control.checked = schema.default === true;
  return { control, read: () => control.checked, write: (value) => { control.checked = value === true; } };
}

/** A select box. If the values are positions in a picture, the user can also click on a small map. */
export function choice(schema) {
  const values = (schema.enum ?? [true, false]).filter((value) => value !== null);
  const mayBeEmpty = schema.optional || schema.default === undefined;
  const control = el("select", {}, mayBeEmpty && el("option", { value: "" }, "auto"),
    values.map((value) => el("option", { value: JSON.stringify(value) }, optionText(value))));
  const map = values.filter(isPosition).length > 4
    && positionMap(values, (value) => { control.value = JSON.stringify(value); dispatchInput(control); });
  const updateMap = () => map && map.mark(control.value);
  const write = (value) => { control.value = value === null || value === undefined ? "" : JSON.stringify(value); updateMap(); };
  control.addEventListener("input", updateMap);
  write(schema.default);
  return { control, extra: map ? [map.node] : [], read: () => (control.value ? JSON.parse(control.value) : emptyValue(schema)), write };
}

const emptyValue = ({ optional, default: usual }) => (optional && usual !== undefined && usual !== null ? null : undefined);

const optionText = (value) => (value === true ? "yes" : value === false ? "no" : String(value));

const isPosition = (value) => /^(top|bottom|left|right|center|-)+$/.test(value);

// The map is only for a mouse or a finger. Keyboards and screen readers use the select box, which has the same values.
function positionMap(values, onPick) {
  const line = (value, first, last) => (value.includes(first) ? 1 : value.includes(last) ? 3 : 2);
  const cells = values.filter(isPosition).map((value) => {
    const cell = el("span", { class: "position", title: value, "data-value": JSON.stringify(value), on: { click: () => onPick(value) } });
    cell.style.gridArea = `${line(value, "top", "bottom")} / ${line(value, "left", "right")}`;
    return cell;
  });
  const mark = (chosen) => cells.forEach((cell) => cell.classList.toggle("chosen", cell.dataset.value === chosen));
  return { node: el("span", { class: "positions", "aria-hidden": "true" }, cells), mark };
}

/**
 * A text field for a colour, next to the colour picker of the browser. The text field holds the value, because the
 * picker cannot be empty.
 */
export function color(schema, required) {
  const control = el("input", {
    type: "text", pattern: schema.pattern, maxlength: 7, title: "# and six hexadecimal digits, such as #ff8800", spellcheck: "false", autocomplete: "off",
    required: required && schema.default === undefined, placeholder: schema.default ?? (schema.optional ? "none" : "#rrggbb"),
  });
  const picker = el("input", {
    type: "color", "aria-label": `${schema.title ?? "Colour"} picker`, on: { input: () => { control.value = picker.value; updatePicker(); } },
  });
  const none = schema.optional && el("button", {
    type: "button", class: "tool", on: { click: () => { write(null); dispatchInput(control); control.focus(); } },
  }, "None");
  const updatePicker = () => {
    const isColor = /^#[0-9a-f]{6}$/i.test(control.value);
    picker.classList.toggle("is-none", !isColor);
    if (isColor) picker.value = control.value;
    if (none) none.hidden = !control.value;
  };
  const write = (value) => { control.value = value ?? ""; updatePicker(); };
  control.addEventListener("input", updatePicker);
  write(schema.default);
  return { control, extra: [picker, none], read: () => control.value.trim() || emptyValue(schema), write };
}

/**
 * A text field for JSON. Text that is not JSON is sent as a string, so a text needs no quotes. The service checks the
 * value.
 */
export function json(schema) {
  const control = el("input", { type: "text", spellcheck: "false", placeholder: "auto" });
  const write = (value) => { control.value = value === null || value === undefined ? "" : JSON.stringify(value); };
  write(schema.default);
  const read = () => {
    if (control.value.trim() === "") return undefined;
    try { return JSON.parse(control.value); } catch { return control.value; }
  };
  return { control, read, write };
}
