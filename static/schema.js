// JSON Schema as Pydantic writes it, reduced to what a form needs.

import { either, list } from "/static/format.js";

/** Follow $ref and unwrap `anyOf [X, null]`; `optional` says that null was allowed. */
export function resolve(schema, defs = {}) {
  let found = schema;
  let optional = false;
  for (;;) {
    if (found.$ref) {
      const { $ref, ...own } = found;
      found = { ...defs[$ref.split("/").pop()], ...own };
    } else if (found.allOf?.length === 1) {
      const { allOf, ...own } = found;
      found = { ...allOf[0], ...own };
    } else if (found.anyOf) {
      const { anyOf, ...own } = found;
      if (anyOf.every(isDemand)) return { ...found, optional };
      const some = anyOf.filter((choice) => choice.type !== "null");
      optional ||= some.length < anyOf.length;
      if (some.length !== 1) return { ...own, optional };
      found = { ...some[0], ...own };
    } else {
      return { ...found, optional };
    }
  }
}

/** What `values` lack of what the schema demands, in words ("a width or a height"), or null. */
export function missing(schema, values, defs = schema.$defs) {
  const known = resolve(schema, defs);
  const properties = Object.fromEntries(Object.entries(known.properties ?? {}).map(([name, one]) => [name, resolve(one, defs)]));
  const absent = ({ required = [] }) => required.filter((name) => values[name] === undefined && !("const" in (properties[name] ?? {})));
  const worded = (names) => list(names.map((name) => article(label(name, properties[name] ?? {}).toLowerCase())));
  if (absent(known).length) return worded(absent(known));
  const choices = (known.anyOf ?? []).filter(isDemand).map(absent);
  if (choices.length && choices.every((names) => names.length)) return either(choices.map(worded));
  const groups = Object.keys(properties).filter((name) => kind(properties[name]) === "group" && values[name] !== undefined);
  return groups.map((name) => missing(properties[name], values[name], defs)).find(Boolean) ?? null;
}

/** The names of the parameters that name a further file of the request. */
export function partsIn({ properties = {}, $defs }) {
  return Object.keys(properties).filter((name) => kind(resolve(properties[name], $defs)) === "part");
}

const isDemand = (schema) => Object.keys(schema).join() === "required";

const article = (noun) => `${/^[aeiou]/.test(noun) ? "an" : "a"} ${noun}`;

/** Which control shows this schema. What a form cannot show well is written as JSON. */
export function kind(schema) {
  if ("const" in schema) return "constant";
  if (schema.enum) return "choice";
  if (schema.properties) return "group";
  if (schema.type === "boolean") return schema.optional ? "choice" : "switch";
  if (schema.type === "integer" || schema.type === "number") return "number";
  if (schema.format === "color" || schema.format === "part") return schema.format;
  return schema.type === "string" ? "text" : "json";
}

export function label(name, schema) {
  return schema.title ?? name.replaceAll("_", " ").replace(/^./, (first) => first.toUpperCase());
}

/** The range is left out where nobody meets its end: the browser says so to whoever does. */
export function hint({ minimum, exclusiveMinimum, maximum, description }) {
  const from = minimum ?? exclusiveMinimum;
  const range = maximum - from <= 1000 ? `${minimum === undefined ? `above ${from}` : from} to ${maximum}` : null;
  return [range, description].filter(Boolean).join(", ");
}

/** Fields in the order to ask for them: values, then switches, then groups; a model's own order puts inherited ones first. */
export function inOrder(properties, defs) {
  const rank = (schema) => ["switch", "group"].indexOf(kind(resolve(schema, defs)));
  return Object.entries(properties).sort(([, one], [, other]) => rank(one) - rank(other));
}
