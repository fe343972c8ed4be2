// A metadata result as a definition list: the first level flattened, the rest folded away.

import { el } from "/static/element.js";

const SHOWN = 8;
const FIRST = ["camera", "gps", "icc_profile", "exif"]; // what nothing else on the page says; a place should be noticed

export function facts(result) {
  const rows = Object.entries(result).sort(([one], [other]) => rank(one) - rank(other)).flatMap(flatten);
  const visible = rows.slice(0, SHOWN);
  const folded = rows.slice(SHOWN);
  return el("div", { class: "facts" }, definitions(visible),
    folded.length > 0 && el("details", {}, el("summary", {}, `${folded.length} more`), definitions(folded)));
}

function definitions(rows) {
  return el("dl", {}, rows.map(([term, value]) => el("div", {}, el("dt", {}, term), el("dd", {}, worded(value)))));
}

function flatten([name, value]) {
  if (value === null || value === undefined || value === "") return [];
  if (!isObject(value)) return [[spaced(name), value]];
  return Object.entries(value).filter(([, inner]) => inner !== null).map(([inner, deep]) => [`${spaced(name)} ${spaced(inner)}`, deep]);
}

function rank(name) {
  return FIRST.includes(name) ? FIRST.indexOf(name) : FIRST.length;
}

function worded(value) {
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (Array.isArray(value) && value.every((part) => !isObject(part))) return value.join(", ");
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

const spaced = (name) => name.replaceAll("_", " ");
