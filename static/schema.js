// Reads the JSON Schemas that Pydantic writes. Only the keywords that the forms of the page need are supported.

import { joinAnd, joinOr } from "/static/format.js";

/** Follow $ref and unwrap `anyOf [X, null]`. `optional` in the returned schema is true if null is allowed. */
export function resolve(schema, defs = {}) {
  let current = schema;
  let optional = false;
  for (;;) {
    if (current.$ref) {
      const { $ref, ...own } = current;
      current = { ...defs[$ref.split("/").pop()], ...own };
    } else if (current.allOf?.length === 1) {
      const { allOf, ...own } = current;
      current = { ...allOf[0], ...own };
    } else if (current.anyOf) {
      const { anyOf, ...own } = current;
      if (anyOf.every(isRequirement)) return { ...current, optional };
      const choices = anyOf.filter((choice) => choice.type !== "null");
      optional ||= choices.length < anyOf.length;
      if (choices.length !== 1) return { ...own, optional };
      current = { ...choices[0], ...own };
    } else {
      return { ...current, optional };
    }
  }
}

/** The required values that `values` lacks, in words ("a width or a height"), or null. */
export function missing(schema, values, defs = schema.$defs) {
  const known = resolve(schema, defs);
  const properties = Object.fromEntries(Object.entries(known.properties ?? {}).map(([name, one]) => [name, resolve(one, defs)]));
  const absent = ({ required = [] }) => required.filter((name) => values[name] === undefined && !("const" in (properties[name] ?? {})));
  const describe = (names) => joinAnd(names.map((name) => withArticle(label(name, properties[name] ?? {}).toLowerCase())));
  if (absent(known).length) return describe(absent(known));
  const choices = (known.anyOf ?? []).filter(isRequirement).map(absent);
  if (choices.length && choices.every((names) => names.length)) return joinOr(choices.map(describe));
  const groups = Object.keys(properties).filter((name) => kind(properties[name]) === "group" && values[name] !== undefined);
  return groups.map((name) => missing(properties[name], values[name], defs)).find(Boolean) ?? null;
}

/** The names of the parameters whose value is the name of a part. */
export function partParameters({ properties = {}, $defs }) {
  return Object.keys(properties).filter((name) => kind(resolve(properties[name], $defs)) === "part");
}

const isRequirement = (schema) => Object.keys(schema).join() === "required";

const withArticle = (noun) => `${/^[aeiou]/.test(noun) ? "an" : "a"} ${noun}`;

/** The kind of form control that edits a value of this schema. Schemas without a better control get "json". */
export function kind(schema) {
  if ("const" in schema) return "constant";
  if (schema.enum) return "choice";
  if (schema.properties) return "group";
  if (schema.type === "boolean") return schema.optional ? "choice" : "switch";
  if (schema.type === "integer" || schema.type === "number") return "number";
  if (schema.format === "color" || schema.format === "part") return schema.format;
  return schema.type === "string" ? "text" : "json";
}

/** The label of a parameter. */
export function label(name, schema) {
  return schema.title ?? name.replaceAll("_", " ").replace(/^./, (first) => first.toUpperCase());
}

/**
 * The hint below a control: the range and the description. A range wider than 1000 is left out, because the browser
 * itself reports a value outside the range.
 */
export function hint({ minimum, exclusiveMinimum, maximum, description }) {
  const from = minimum ?? exclusiveMinimum;
  const range = maximum - from <= 1000 ? `${minimum === undefined ? `above ${from}` : from} to ${maximum}` : null;
  return [range, description].filter(Boolean).join(", ");
}

/** Properties in the order of the form: values, switches, groups. Pydantic would put inherited properties first. */
export function inFormOrder(properties, defs) {
  const rank = (schema) => ["switch", "group"].indexOf(kind(resolve(schema, defs)));
  return Object.entries(properties).sort(([, one], [, other]) => rank(one) - rank(other));
}
