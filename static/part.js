// The control for a parameter whose value is the name of a part. A part is a file that is sent together with the photo.

import { el, fill } from "/static/element.js";
import { formatBytes } from "/static/format.js";

/**
 * Create the control. Returns {control, holder, extra, read(), write(name)}. `files` is the collection of part files
 * (PartFiles) to which a chosen file is added.
 */
export function part(schema, files) {
  let name;
  let previewUrl = null;
  const control = el("input", {
    type: "file", class: "visually-hidden", accept: "image/*", on: { change: () => control.files[0] && choose(control.files[0]) },
  });
  const buttonText = el("span");
  const details = el("span", { class: "part-details" });
  const remove = el("button", { type: "button", class: "tool", on: { click: () => { choose(null); control.focus(); } } }, "Remove");

  function choose(file) {
    write(file ? files.add(file) : null);
    control.value = ""; // otherwise choosing the same file again would cause no event
    control.dispatchEvent(new Event("input", { bubbles: true }));
  }

  function write(value) {
    name = value ?? undefined;
    const file = name && files.get(name);
    if (previewUrl) URL.revokeObjectURL(previewUrl);
    previewUrl = file ? URL.createObjectURL(file) : null;
    buttonText.textContent = file ? "Replace" : "Choose a file";
    fill(details, file && [el("img", { src: previewUrl, alt: "" }), el("span", {}, file.name, " ", el("span", { class: "hint" }, formatBytes(file.size)))]);
    if (name && !file) fill(details, el("strong", { class: "part-lost" }, `Choose “${name}” again: this page does not keep files after a reload or for another job.`));
    remove.hidden = !name;
  }

  write(null);
  return { control, holder: el("label", { class: "tool part-button" }, buttonText, control), extra: [remove, details], read: () => name, write };
}
