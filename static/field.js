// One parameter as a form control. Every field reads to a plain value, and to undefined where the user left it empty.

import { choice, json, number, text, toggle } from "/static/control.js";
import { el } from "/static/element.js";
import { hint, inOrder, kind, label, resolve } from "/static/schema.js";

let serial = 0;

/** {node, read(), write(value), locate(path), fail(detail), clear()} for one property of a schema; null where nothing is to be asked. */
export function field(name, schema, defs, required = false) {
  const known = resolve(schema, defs);
  switch (kind(known)) {
    case "constant": return null;
    case "group": return group(name, known, defs);
    case "switch": return single(name, known, toggle(known));
    case "choice": return single(name, known, choice(known));
    case "number": return single(name, known, number(known, required));
    case "text": return single(name, known, text(known, required));
    default: return single(name, known, json(known));
  }
}

/** A list of fields that reads to an object of those that were filled. */
export function fields(schema, defs = schema.$defs) {
  const made = inOrder(schema.properties ?? {}, defs)
    .map(([name, property]) => [name, field(name, property, defs, schema.required?.includes(name))])
    .filter(([, one]) => one);
  return {
    nodes: made.map(([, one]) => one.node),
    read: () => Object.fromEntries(made.map(([name, one]) => [name, one.read()]).filter(([, value]) => value !== undefined)),
    write: (values) => made.forEach(([name, one]) => name in values && one.write(values[name])),
    locate: ([name, ...rest]) => made.find(([own]) => own === name)?.[1].locate(rest) ?? null,
    clear: () => made.forEach(([, one]) => one.clear()),
  };
}

function group(name, schema, defs) {
  const inner = fields(schema, defs);
  const error = el("p", { class: "field-error", hidden: true });
  const note = hint(schema);
  const node = el("fieldset", { class: "field group" },
    el("legend", {}, label(name, schema), note && el("span", { class: "hint" }, ` ${note}`)),
    el("div", { class: "group-fields" }, inner.nodes), error);
  const self = {
    node,
    read: () => { const values = inner.read(); return Object.keys(values).length ? values : undefined; },
    write: (values) => inner.write(values ?? {}),
    locate: (path) => (path.length ? inner.locate(path) : null) ?? self,
    fail: (detail) => show(error, detail),
    clear: () => { hide(error); inner.clear(); },
    focus: () => node.querySelector("input, select")?.focus(),
  };
  return self;
}

function single(name, schema, { control, extra = [], read, write }) {
  const id = `field-${++serial}`;
  const note = hint(schema);
  const error = el("p", { class: "field-error", id: `${id}-error`, hidden: true });
  control.id = id;
  control.setAttribute("aria-describedby", note ? `${id}-error ${id}-hint` : `${id}-error`);
  const caption = el("label", { for: id }, label(name, schema));
  const onOneLine = control.type === "checkbox";
  const node = el("div", { class: onOneLine ? "field switch" : "field" },
    onOneLine ? [control, caption] : [caption, el("div", { class: "control" }, control, extra)],
    note && el("p", { class: "hint", id: `${id}-hint` }, note), error);
  const self = {
    node, read, write,
    locate: () => self,
    fail: (detail) => { show(error, detail); control.setAttribute("aria-invalid", "true"); },
    clear: () => { hide(error); control.removeAttribute("aria-invalid"); },
    focus: () => control.focus(),
  };
  node.addEventListener("input", self.clear);
  return self;
}

function show(error, detail) {
  error.textContent = detail;
  error.hidden = false;
}

function hide(error) {
  error.hidden = true;
  error.textContent = "";
}
