// The controls that a field may hold. Each is {control, extra, read(), write(value)}; an empty one reads to undefined.

import { el } from "/static/element.js";

export function number(schema, required) {
  const control = el("input", {
    type: "number", inputmode: schema.type === "integer" ? "numeric" : "decimal", min: schema.minimum, max: schema.maximum,
    step: schema.multipleOf ?? (schema.type === "integer" ? 1 : "any"),
    required: required && schema.default === undefined, placeholder: schema.default ?? "auto", value: schema.default ?? "",
  });
  const read = () => (control.value === "" ? undefined : Number(control.value));
  const slider = bounded(schema) && el("input", {
    type: "range", min: schema.minimum, max: schema.maximum, step: schema.type === "integer" ? 1 : (schema.maximum - schema.minimum) / 100,
    "aria-label": `${schema.title ?? "Value"} slider`, value: schema.default, on: { input: () => { control.value = slider.value; } },
  });
  const follow = () => { if (slider) slider.value = control.value || schema.default; };
  control.addEventListener("input", follow);
  return { control, extra: slider ? [slider] : [], read, write: (value) => { control.value = value ?? ""; follow(); } };
}

// A slider over thousands of pixels cannot be aimed; over a hundred it is quicker than typing.
function bounded({ minimum, maximum, default: usual }) {
  return typeof usual === "number" && minimum !== undefined && maximum !== undefined && maximum - minimum <= 200;
}

export function text(schema, required) {
  const control = el("input", {
    type: "text", required: required && schema.default === undefined, maxlength: schema.maxLength,
    pattern: schema.pattern, value: schema.default ?? "", spellcheck: "false",
  });
  return { control, read: () => control.value || undefined, write: (value) => { control.value = value ?? ""; } };
}

export function toggle(schema) {
  const control = el("input", { type: "checkbox" });
  control.checked = schema.default === true;
  return { control, read: () => control.checked, write: (value) => { control.checked = value === true; } };
}

export function choice(schema) {
  const values = schema.enum ?? [true, false];
  const open = schema.optional || schema.default === undefined;
  const control = el("select", {}, open && el("option", { value: "" }, "auto"),
    values.filter((value) => value !== null).map((value) => el("option", { value: JSON.stringify(value) }, worded(value))));
  const write = (value) => { control.value = value === null || value === undefined ? "" : JSON.stringify(value); };
  write(schema.default);
  return { control, read: () => (control.value ? JSON.parse(control.value) : undefined), write };
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
