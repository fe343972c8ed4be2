// A metadata result as a definition list: what a person looks for first, each group as a whole folded away.

import { el } from "/static/element.js";
import { bytes } from "/static/format.js";

const SHOWN = 8;
const TOO_FEW_TO_FOLD = 2;
// What nothing else on the page says. Two groups are told in a line each; a place should be noticed.
const FIRST = ["camera", "lens", "taken_at", "exposure", "gps", "icc_profile", "width", "height", "frames", "bytes"];
const LINES = {
  exposure: ({ time_s: time, f_number: aperture, iso, focal_length_mm: length }) =>
    [time && `${shutter(time)} s`, aperture && `f/${aperture}`, iso && `ISO ${iso}`, length && `${length} mm`],
  gps: ({ latitude, longitude, altitude_m: altitude }) => [`${latitude}, ${longitude}`, altitude !== undefined && `${altitude} m`],
};
const TERMS = { gps: "place", icc_profile: "colour profile", iso: "ISO", f_number: "f-number" };
const UNITS = { s: "s", mm: "mm", m: "m", ev: "EV" };
const HEADINGS = { exif: "EXIF", gps: "GPS", xmp: "XMP", iptc: "IPTC" };

export function facts(result) {
  const told = Object.entries(result).filter(([, value]) => !isEmpty(value)).sort(([one], [other]) => rank(one) - rank(other));
  const groups = told.filter(([, value]) => isObject(value));
  const rows = told.map(([name, value]) => (isObject(value) ? [name, line(name, value)] : [name, value])).filter(([, value]) => value);
  const shown = rows.length > SHOWN + TOO_FEW_TO_FOLD ? SHOWN : rows.length;
  return el("div", { class: "facts" }, definitions(rows.slice(0, shown)),
    shown < rows.length && fold("File", rows.slice(shown)),
    groups.map(([name, value]) => fold(HEADINGS[name] ?? spaced(name), Object.entries(value).filter(([, inner]) => !isEmpty(inner)).sort())));
}

function fold(heading, rows) {
  return el("details", {}, el("summary", {}, heading, " ", el("span", { class: "hint" }, rows.length)), definitions(rows));
}

function definitions(rows) {
  return el("dl", {}, rows.map(([name, value]) => el("div", {}, el("dt", {}, term(name)), el("dd", {}, measured(name, value)))));
}

function line(name, group) {
  return LINES[name]?.(group).filter(Boolean).join(" · ") ?? null;
}

const shutter = (seconds) => (seconds < 0.4 ? `1/${Math.round(1 / seconds)}` : seconds);

const unit = (name) => (name in TERMS ? null : UNITS[name.split("_").at(-1)]);

const term = (name) => TERMS[name] ?? spaced(unit(name) ? name.replace(/_[^_]+$/, "") : name);

function measured(name, value) {
  if (typeof value !== "number") return worded(value);
  return name === "bytes" ? bytes(value) : unit(name) ? `${value} ${unit(name)}` : String(value);
}

function worded(value) {
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (Array.isArray(value)) return value.map(worded).join(", ");
  if (isObject(value)) return Object.entries(value).map(([name, inner]) => `${spaced(name)}: ${worded(inner)}`).join("; ");
  return String(value).replace(/^(\d{4}-\d\d-\d\d)T(?=\d\d:)/, "$1 ");
}

function rank(name) {
  return FIRST.includes(name) ? FIRST.indexOf(name) : FIRST.length;
}

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

const isEmpty = (value) => value === null || value === undefined || value === "" || (isObject(value) && Object.keys(value).length === 0);

const spaced = (name) => name.replaceAll("_", " ");
