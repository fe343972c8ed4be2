// The results of a job: one card for each step that left a file or an answer.

import { serverNow } from "/static/api.js";
import { compare } from "/static/compare.js";
import { el, icon, reconcileChildren } from "/static/element.js";
import { dimensions, formatBytes, formatName, resultSummary, sizeChange } from "/static/format.js";
import { metadataList } from "/static/metadata-list.js";

/**
 * Show the results of `job` in the list `parent`, and return their number. `source` is the file of the photo, if this
 * page has the file; the service does not return it. `renew()` shows the job again with fresh URLs, and resolves to
 * true if the request succeeded.
 */
export function showResults(parent, job, { source, renew }) {
  const results = Object.entries(job.steps).filter(([, step]) => step.artifact || step.result);
  reconcileChildren(parent, results, {
    key: ([name]) => name,
    version: ([, step]) => JSON.stringify([step.artifact?.sha256, step.artifact?.name, step.result]),
    create: ([name, step]) => card(name, step, job.source, { renew, before: source }),
    update: (node, [, { artifact }]) => {
      const link = node.querySelector("a.download");
      if (!link || !artifact) return;
      link.href = artifact.url;
      link.dataset.expires = artifact.url_expires_at ?? "";
    },
  });
  return results.length;
}

// A denoised photo has the size of the original photo, so both pictures can be compared.
const isComparable = ({ op, input, result }) => op === "denoise" && input[0] === "source" && result?.denoised;

function card(name, step, source, { renew, before }) {
  const { op, artifact, result } = step;
  const shown = artifact && picture(name, artifact, isComparable(step) ? before : null);
  return el("li", { class: shown ? "result" : "result without-picture" },
    shown,
    el("div", { class: "result-body" },
      el("h3", {}, name),
      artifact && fileDetails(artifact, source),
      result && (op === "metadata" ? metadataList(result) : el("p", { class: "result-summary" }, resultSummary(result))),
      artifact && isComparable(step) && !before && el("p", { class: "result-summary" }, "You can compare before and after only in the browser tab that sent the photo, until you reload the page."),
      artifact && downloadLink(artifact, renew)));
}

function picture(name, { media_type: type, url }, before) {
  if (!type.startsWith("image/")) return type === "application/json" ? null : el("div", { class: "result-picture" }, icon("bundle"));
  const frame = el("div", { class: "result-picture" });
  const image = el("img", {
    src: url, alt: `Result ${name}`, loading: before ? "eager" : "lazy",
    on: { error: () => frame.replaceChildren(el("p", { class: "no-picture" }, "This browser cannot show the file. You can still download it.")) },
  });
  frame.append(image);
  if (before) compare(frame, image, before);
  return frame;
}

function fileDetails(artifact, source) {
  const isImage = artifact.media_type.startsWith("image/") && source.bytes > 0;
  const change = isImage && sizeChange(source.bytes, artifact.bytes);
  return [
    el("p", { class: "result-kind" },
      [formatName(artifact.media_type), dimensions(artifact), !isImage && formatBytes(artifact.bytes)].filter(Boolean).join(" · ")),
    isImage && el("p", { class: "result-size" }, `${formatBytes(source.bytes)} → ${formatBytes(artifact.bytes)}`,
      el("span", { class: change.endsWith("larger") ? "tag larger" : "tag" }, change)),
  ];
}

// If the URL of a link has expired, a click first renews the URL and then clicks the link again. If the URL cannot be
// renewed, the link is not followed, and the page shows the error. The second click does not check the time again,
// because a wrong clock could then cause an endless loop.
function downloadLink(artifact, renew) {
  const link = el("a", { class: "button download", download: artifact.name, title: artifact.name, "aria-label": `Download ${artifact.name}` }, icon("download"), "Download");
  let renewing = false;
  let renewed = false;
  link.addEventListener("click", async (event) => {
    const expired = link.dataset.expires && Date.parse(link.dataset.expires) <= serverNow();
    if (renewed || !expired) return;
    event.preventDefault();
    if (renewing) return;
    renewing = true;
    renewed = await renew();
    renewing = false;
    if (renewed && link.isConnected) link.click(); // showResults has given this link its new URL
    renewed = false;
  });
  return link;
}
