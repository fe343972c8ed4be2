// One parameter as a form field: label, control, hint and error. The `read` method of a field returns undefined if the
// field has the default value of the service.

import { choice, color, json, number, text, toggle } from "/static/control.js";
import { el, prose } from "/static/element.js";
import { errorLine } from "/static/error-line.js";
import { part } from "/static/part.js";
import { hint, inFormOrder, kind, label, resolve } from "/static/schema.js";

let lastId = 0;

// Returns {node, caption, advanced, read(), write(value), locate(path), fail(detail), clear(), focus()}, or null for a
// constant.
function field(name, schema, { defs, files, required }) {
  const known = resolve(schema, defs);
  switch (kind(known)) {
    case "constant": return null;
    case "group": return group(name, known, { defs, files });
    case "switch": return single(name, known, toggle(known));
    case "choice": return single(name, known, choice(known));
    case "number": return single(name, known, number(known, required));
    case "text": return single(name, known, text(known, required));
    case "color": return single(name, known, color(known, required));
    case "part": return single(name, known, part(known, files));
    default: return single(name, known, json(known));
  }
}

/**
 * Create the fields for the properties of a schema. Returns {nodes, read(), write(values), locate(path), clear()}.
 * `read` returns an object of the values that differ from the defaults. Advanced fields are in a <details> element.
 * `files` keeps the files of parts.
 */
export function fields(schema, { defs = schema.$defs, files }) {
  const named = inFormOrder(schema.properties ?? {}, defs)
    .map(([name, property]) => [name, field(name, property, { defs, files, required: schema.required?.includes(name) })])
    .filter(([, one]) => one);
  const all = named.map(([, one]) => one);
  const folded = all.filter((one) => one.advanced);
  const more = folded.length > 0 && disclosure(folded);
  return {
    nodes: [...all.filter((one) => !one.advanced).map((one) => one.node), more].filter(Boolean),
    read: () => Object.fromEntries(named.map(([name, one]) => [name, one.read()]).filter(([, value]) => value !== undefined)),
    write: (values) => {
      named.forEach(([name, one]) => name in values && one.write(values[name]));
      if (folded.some((one) => one.read() !== undefined)) more.open = true;
    },
    locate: ([first, ...rest]) => named.find(([name]) => name === first)?.[1].locate(rest) ?? null,
    clear: () => all.forEach((one) => one.clear()),
  };
}

function disclosure(folded) {
  const node = el("details", { class: "more" },
    el("summary", {}, "More ", el("span", { class: "hint" }, folded.map((one) => one.caption).join(", "))),
    el("div", { class: "more-fields" }, folded.map((one) => one.node)));
  // If the value of a hidden control is invalid, the browser cannot show its message there. Without this listener, a
  // click on Start would have no visible effect.
  node.addEventListener("invalid", () => { node.open = true; }, { capture: true });
  return node;
}

function group(name, schema, { defs, files }) {
  const inner = fields(schema, { defs, files });
  const caption = label(name, schema);
  const error = errorLine(`field-${++lastId}-error`);
  const note = hint(schema);
  const node = el("fieldset", { class: "field group" },
    el("legend", {}, caption, note && el("span", { class: "hint" }, " ", prose(note))),
    el("div", { class: "group-fields" }, inner.nodes), error.node);
  const self = {
    node, caption,
    advanced: schema.advanced === true,
    read: () => { const values = inner.read(); return Object.keys(values).length ? values : undefined; },
    write: (values) => inner.write(values ?? {}),
    locate: (path) => (path.length ? inner.locate(path) : null) ?? self,
    fail: error.add,
    clear: () => { error.clear(); inner.clear(); },
    focus: () => node.querySelector("input, select, textarea")?.focus(),
  };
  return self;
}

function single(name, schema, { control, holder = control, extra = [], read, write }) {
  const id = `field-${++lastId}`;
  const caption = label(name, schema);
  const note = hint(schema);
  const error = errorLine(`${id}-error`, control);
  control.id = id;
  control.setAttribute("aria-describedby", note ? `${id}-error ${id}-hint` : `${id}-error`);
  const heading = el("label", { for: id }, caption);
  const onOneLine = control.type === "checkbox";
  const node = el("div", { class: onOneLine ? "field switch" : "field" },
    onOneLine ? [control, heading] : [heading, el("div", { class: "control" }, holder, extra)],
    note && el("p", { class: "hint", id: `${id}-hint` }, prose(note)), error.node);
  const self = {
    node, caption, write,
    advanced: schema.advanced === true,
    read: () => { const value = read(); return value === schema.default ? undefined : value; },
    locate: () => self,
    fail: error.add,
    clear: error.clear,
    focus: () => control.focus(),
  };
  node.addEventListener("input", error.clear);
  return self;
}
