// Shows the result of a metadata step as a definition list. The most important values come first. Each group of values
// is in a <details> element.

import { el } from "/static/element.js";
import { formatBytes } from "/static/format.js";

const SHOWN = 8;
const FOLD_AT_LEAST = 3; // rows in a <details> element, because hiding fewer rows would save no room
// The order of the first values. It begins with values that the page shows nowhere else.
const FIRST = ["camera", "lens", "taken_at", "exposure", "gps", "icc_profile", "width", "height", "frames", "bytes"];
// For these groups, the list also has a row with a summary, so that the user notices if a photo contains a location.
const SUMMARIES = {
  exposure: ({ time_s: time, f_number: aperture, iso, focal_length_mm: length }) =>
    [time && `${exposureTime(time)} s`, aperture && `f/${aperture}`, iso && `ISO ${iso}`, length && `${length} mm`],
  gps: ({ latitude, longitude, altitude_m: altitude }) => [`${latitude}, ${longitude}`, altitude !== undefined && `${altitude} m`],
};
const TERMS = { gps: "place", icc_profile: "colour profile", iso: "ISO", f_number: "f-number" };
const UNITS = { s: "s", mm: "mm", m: "m", ev: "EV" };
const HEADINGS = { exif: "EXIF", gps: "GPS", xmp: "XMP", iptc: "IPTC" };

/** The element that shows `result`, the result of a metadata step. */
export function metadataList(result) {
  const entries = Object.entries(result).filter(([, value]) => !isEmpty(value)).sort(([one], [other]) => rank(one) - rank(other));
  const groups = entries.filter(([, value]) => isObject(value));
  const rows = entries.map(([name, value]) => (isObject(value) ? [name, summary(name, value)] : [name, value])).filter(([, value]) => value);
  const shown = rows.length >= SHOWN + FOLD_AT_LEAST ? SHOWN : rows.length;
  return el("div", { class: "metadata" }, definitions(rows.slice(0, shown)),
    shown < rows.length && fold("File", rows.slice(shown)),
    groups.map(([name, value]) => fold(HEADINGS[name] ?? spaced(name), Object.entries(value).filter(([, inner]) => !isEmpty(inner)).sort())));
}

function fold(heading, rows) {
  return el("details", {}, el("summary", {}, heading, " ", el("span", { class: "hint" }, rows.length)), definitions(rows));
}

function definitions(rows) {
  return el("dl", {}, rows.map(([name, value]) => el("div", {}, el("dt", {}, term(name)), el("dd", {}, withUnit(name, value)))));
}

function summary(name, group) {
  return SUMMARIES[name]?.(group).filter(Boolean).join(" · ") ?? null;
}

const exposureTime = (seconds) => (seconds < 0.4 ? `1/${Math.round(1 / seconds)}` : seconds);

const unit = (name) => (name in TERMS ? null : UNITS[name.split("_").at(-1)]);

const term = (name) => TERMS[name] ?? spaced(unit(name) ? name.replace(/_[^_]+$/, "") : name);

function withUnit(name, value) {
  if (typeof value !== "number") return valueText(value);
  return name === "bytes" ? formatBytes(value) : unit(name) ? `${value} ${unit(name)}` : String(value);
}

function valueText(value) {
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (Array.isArray(value)) return value.map(valueText).join(", ");
  if (isObject(value)) return Object.entries(value).map(([name, inner]) => `${spaced(name)}: ${valueText(inner)}`).join("; ");
  return String(value).replace(/^(\d{4}-\d\d-\d\d)T(?=\d\d:)/, "$1 ");
}

function rank(name) {
  return FIRST.includes(name) ? FIRST.indexOf(name) : FIRST.length;
}

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

const isEmpty = (value) => value === null || value === undefined || value === "" || (isObject(value) && Object.keys(value).length === 0);

const spaced = (name) => name.replaceAll("_", " ");
