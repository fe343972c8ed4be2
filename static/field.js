// One parameter as a form control. Every field reads to a plain value, and to undefined where that is what the service takes by itself.

import { choice, color, json, number, text, toggle } from "/static/control.js";
import { el } from "/static/element.js";
import { part } from "/static/part.js";
import { hint, inOrder, kind, label, resolve } from "/static/schema.js";

let serial = 0;

/**
 * {node, caption, advanced, read(), write(value), locate(path), fail(detail), clear()} for one property of a schema; null where
 * nothing is to be asked. `files` is where the file of a part is kept.
 */
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

/** A list of fields that reads to an object of those that were changed. Those few change are folded away. */
export function fields(schema, { defs = schema.$defs, files }) {
  const made = inOrder(schema.properties ?? {}, defs)
    .map(([name, property]) => [name, field(name, property, { defs, files, required: schema.required?.includes(name) })])
    .filter(([, one]) => one);
  const all = made.map(([, one]) => one);
  const folded = all.filter((one) => one.advanced);
  const more = folded.length > 0 && disclosure(folded);
  return {
    nodes: [...all.filter((one) => !one.advanced).map((one) => one.node), more].filter(Boolean),
    read: () => Object.fromEntries(made.map(([name, one]) => [name, one.read()]).filter(([, value]) => value !== undefined)),
    write: (values) => {
      made.forEach(([name, one]) => name in values && one.write(values[name]));
      if (folded.some((one) => one.read() !== undefined)) more.open = true;
    },
    locate: ([name, ...rest]) => made.find(([own]) => own === name)?.[1].locate(rest) ?? null,
    clear: () => all.forEach((one) => one.clear()),
  };
}

function disclosure(folded) {
  const node = el("details", { class: "more" },
    el("summary", {}, "More ", el("span", { class: "hint" }, folded.map((one) => one.caption).join(", "))),
    el("div", { class: "more-fields" }, folded.map((one) => one.node)));
  // The browser cannot point at a control that is folded away, and then would not say why it does not start.
  node.addEventListener("invalid", () => { node.open = true; }, { capture: true });
  return node;
}

function group(name, schema, { defs, files }) {
  const inner = fields(schema, { defs, files });
  const caption = label(name, schema);
  const error = el("p", { class: "field-error", hidden: true });
  const note = hint(schema);
  const node = el("fieldset", { class: "field group" },
    el("legend", {}, caption, note && el("span", { class: "hint" }, ` ${note}`)),
    el("div", { class: "group-fields" }, inner.nodes), error);
  const self = {
    node, caption,
    advanced: schema.advanced === true,
    read: () => { const values = inner.read(); return Object.keys(values).length ? values : undefined; },
    write: (values) => inner.write(values ?? {}),
    locate: (path) => (path.length ? inner.locate(path) : null) ?? self,
    fail: (detail) => show(error, detail),
    clear: () => { hide(error); inner.clear(); },
    focus: () => node.querySelector("input, select, textarea")?.focus(),
  };
  return self;
}

function single(name, schema, { control, holder = control, extra = [], read, write }) {
  const id = `field-${++serial}`;
  const caption = label(name, schema);
  const note = hint(schema);
  const error = el("p", { class: "field-error", id: `${id}-error`, hidden: true });
  control.id = id;
  control.setAttribute("aria-describedby", note ? `${id}-error ${id}-hint` : `${id}-error`);
  const heading = el("label", { for: id }, caption);
  const onOneLine = control.type === "checkbox";
  const node = el("div", { class: onOneLine ? "field switch" : "field" },
    onOneLine ? [control, heading] : [heading, el("div", { class: "control" }, holder, extra)],
    note && el("p", { class: "hint", id: `${id}-hint` }, note), error);
  const self = {
    node, caption, write,
    advanced: schema.advanced === true,
    read: () => { const value = read(); return value === schema.default ? undefined : value; },
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
  for (let fold = error.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
}

function hide(error) {
  error.hidden = true;
  error.textContent = "";
}
