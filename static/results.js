// What a job has made: one card for each artifact.

import { compare } from "/static/compare.js";
import { el, icon, keep } from "/static/element.js";
import { facts } from "/static/metadata-list.js";
import { bytes, change, dimensions, format, outcome } from "/static/format.js";

/** `source` is the file of the photo, where it is at hand: the service gives none back. `renew()` answers the job afresh, with URLs that have not expired. */
export function showResults(parent, job, { source, renew }) {
  const made = Object.entries(job.steps).filter(([, step]) => step.artifact || step.result);
  keep(parent, made, {
    key: ([name]) => name,
    signature: ([, step]) => JSON.stringify([step.artifact?.sha256, step.artifact?.name, step.result]),
    create: ([name, step]) => card(name, step, job.source, { renew, before: source }),
    refresh: (node, [, { artifact }]) => {
      const link = node.querySelector("a.download");
      if (!link || !artifact) return;
      link.href = artifact.url;
      link.dataset.expires = artifact.url_expires_at ?? "";
    },
  });
  return made.length;
}

// Of the same size as the photo, and another picture.
const isRestored = ({ op, input, result }) => op === "denoise" && input[0] === "source" && result?.denoised;

function card(name, step, source, { renew, before }) {
  const { op, artifact, result } = step;
  const shown = artifact && picture(name, artifact, isRestored(step) ? before : null);
  return el("li", { class: shown ? "result" : "result has-facts" },
    shown,
    el("div", { class: "result-body" },
      el("h3", {}, name),
      artifact && about(artifact, source),
      result && (op === "metadata" ? facts(result) : el("p", { class: "result-outcome" }, outcome(result))),
      artifact && isRestored(step) && !before && el("p", { class: "result-outcome" }, "Before and after can be compared in the tab that sent the photo, until it is reloaded."),
      artifact && download(name, artifact, renew)));
}

function picture(name, { media_type: type, url }, before) {
  if (!type.startsWith("image/")) return type === "application/json" ? null : el("div", { class: "result-picture" }, icon("bundle"));
  const frame = el("div", { class: "result-picture" });
  const image = el("img", {
    src: url, alt: `Result ${name}`, loading: before ? "eager" : "lazy",
    on: { error: () => frame.replaceChildren(el("p", { class: "no-picture" }, "No preview here. The download works.")) },
  });
  frame.append(image);
  if (before) compare(frame, image, before);
  return frame;
}

function about(artifact, source) {
  const pixels = dimensions(artifact);
  const comparable = artifact.media_type.startsWith("image/") && source.bytes > 0;
  const words = comparable && change(source.bytes, artifact.bytes);
  return [
    el("p", { class: "result-kind" },
      [format(artifact.media_type), pixels, !comparable && bytes(artifact.bytes)].filter(Boolean).join(" · ")),
    comparable && el("p", { class: "result-size" }, `${bytes(source.bytes)} → ${bytes(artifact.bytes)}`,
      el("span", { class: words.endsWith("larger") ? "tag larger" : "tag" }, words)),
  ];
}

function download(name, artifact, renew) {
  const link = el("a", { class: "button download", download: artifact.name, title: artifact.name, "aria-label": `Download ${artifact.name}` }, icon("download"), "Download");
  link.addEventListener("click", async (event) => {
    if (!link.dataset.expires || Date.parse(link.dataset.expires) > Date.now()) return;
    event.preventDefault();
    if (await renew()) link.click(); // `refresh` has given this link its new address
  });
  return link;
}
