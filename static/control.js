// The controls that a field may hold. Each is {control, extra, read(), write(value)}; an empty one reads to undefined, and to null
// where the service would put a value of its own in the place of undefined.

import { el } from "/static/element.js";

export function number(schema, required) {
  const whole = schema.type === "integer";
  const control = el("input", {
    type: "number", inputmode: whole ? "numeric" : "decimal", max: schema.maximum,
    min: schema.minimum ?? schema.exclusiveMinimum, step: schema.multipleOf ?? (whole ? 1 : "any"),
    required: required && schema.default === undefined, placeholder: schema.default ?? "auto", value: schema.default ?? "",
  });
  const read = () => (control.value === "" ? undefined : Number(control.value));
  const { minimum: least = schema.exclusiveMinimum + stride(schema), maximum: most } = schema;
  const slider = bounded(schema) && el("input", {
    type: "range", min: least, max: most, step: whole ? 1 : stride(schema),
    "aria-label": `${schema.title ?? "Value"} slider`, value: schema.default, on: { input: () => { control.value = slider.value; } },
  });
  const follow = () => { if (slider) slider.value = control.value || schema.default; };
  const write = (value) => { control.value = value ?? ""; follow(); };
  control.addEventListener("input", follow);
  if (!whole) control.addEventListener("keydown", (event) => {
    const by = { ArrowUp: 1, ArrowDown: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    const next = Number(control.value) + by * stride(schema);
    if (next < least || next > most) return;
    write(Number(next.toFixed(3)));
    told(control);
  });
  return { control, extra: slider ? [slider] : [], read, write };
}

// The service takes any fraction, so the browser must not insist on a step; arrows and sliders go by one that suits the size of the value.
function stride({ default: usual = 1, minimum = 0, maximum = Infinity }) {
  return 10 ** (Math.floor(Math.log10(Math.min(usual || 1, (maximum - minimum) / 10))) - 1);
}

// What a listener has put into a control by itself: to be heard as if the user had.
function told(control) {
  control.dispatchEvent(new Event("input", { bubbles: true }));
}

// A slider over thousands of pixels cannot be aimed; over a hundred it is quicker than typing.
function bounded({ minimum, exclusiveMinimum, maximum, default: usual }) {
  return typeof usual === "number" && maximum - (minimum ?? exclusiveMinimum) <= 200;
}

/** A text that may be long may have lines too, which an `input` would drop. */
export function text(schema, required) {
  const long = schema.maxLength > 100;
  const control = el(long ? "textarea" : "input", {
    ...(long ? { rows: 1 } : { type: "text", pattern: schema.pattern, spellcheck: "false" }),
    required: required && schema.default === undefined, maxlength: schema.maxLength, value: schema.default ?? "",
  });
  return { control, read: () => control.value || undefined, write: (value) => { control.value = value ?? ""; } };
}

export function toggle(schema) {
  const control = el("input", { type: "checkbox" });
  control.checked = schema.default === true;
  return { control, read: () => control.checked, write: (value) => { control.checked = value === true; } };
}

export function choice(schema) {
  const values = (schema.enum ?? [true, false]).filter((value) => value !== null);
  const open = schema.optional || schema.default === undefined;
  const control = el("select", {}, open && el("option", { value: "" }, "auto"),
    values.map((value) => el("option", { value: JSON.stringify(value) }, worded(value))));
  const map = values.filter(isPlace).length > 4 && places(values, (value) => { control.value = JSON.stringify(value); told(control); });
  const follow = () => map && map.mark(control.value);
  const write = (value) => { control.value = value === null || value === undefined ? "" : JSON.stringify(value); follow(); };
  control.addEventListener("input", follow);
  write(schema.default);
  return { control, extra: map ? [map.node] : [], read: () => (control.value ? JSON.parse(control.value) : nothing(schema)), write };
}

const nothing = ({ optional, default: usual }) => (optional && usual !== undefined && usual !== null ? null : undefined);

const isPlace = (value) => /^(top|bottom|left|right|center|-)+$/.test(value);

/** Places in a picture, to point at; the list beside them holds the same for the keyboard and for screen readers. */
function places(values, onPick) {
  const line = (value, first, last) => (value.includes(first) ? 1 : value.includes(last) ? 3 : 2);
  const spots = values.filter(isPlace).map((value) => {
    const spot = el("span", { class: "place", title: value, "data-value": JSON.stringify(value), on: { click: () => onPick(value) } });
    spot.style.gridArea = `${line(value, "top", "bottom")} / ${line(value, "left", "right")}`;
    return spot;
  });
  const mark = (chosen) => spots.forEach((spot) => spot.classList.toggle("chosen", spot.dataset.value === chosen));
  return { node: el("span", { class: "places", "aria-hidden": "true" }, spots), mark };
}

/** Empty is no colour: the browser's own picker always holds one, so it stands beside the value and does not hold it. */
export function color(schema, required) {
  const control = el("input", {
    type: "text", class: "color", pattern: schema.pattern, maxlength: 7, title: "# and six hexadecimal digits, such as #ff8800", spellcheck: "false", autocomplete: "off",
    required: required && schema.default === undefined, placeholder: schema.default ?? (schema.optional ? "none" : "#rrggbb"),
  });
  const picker = el("input", {
    type: "color", "aria-label": `${schema.title ?? "Colour"} picker`, on: { input: () => { control.value = picker.value; follow(); } },
  });
  const none = schema.optional && el("button", {
    type: "button", class: "tool", on: { click: () => { write(null); told(control); control.focus(); } },
  }, "None");
  const follow = () => {
    const known = /^#[0-9a-f]{6}$/i.test(control.value);
    picker.classList.toggle("is-none", !known);
    if (known) picker.value = control.value;
    if (none) none.hidden = !control.value;
  };
  const write = (value) => { control.value = value ?? ""; follow(); };
  control.addEventListener("input", follow);
  write(schema.default);
  return { control, extra: [picker, none], read: () => control.value.trim() || nothing(schema), write };
}

function worded(value) {
  return value === true ? "yes" : value === false ? "no" : String(value);
}

// The service judges what is written here; a bare word need not be quoted.
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
