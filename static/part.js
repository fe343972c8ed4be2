// A file that goes with the photo, as a further part of the request: the control of a parameter that names one.

import { el, fill } from "/static/element.js";
import { bytes } from "/static/format.js";

/** {control, holder, extra, read(), write(name)}; `files` has `add(file)`, which answers a name for it, and `get(name)`. */
export function part(schema, files) {
  let name;
  let preview = null;
  const control = el("input", { type: "file", class: "unseen", accept: "image/*", on: { change: () => control.files[0] && take(control.files[0]) } });
  const word = el("span");
  const about = el("span", { class: "part-about" });
  const remove = el("button", { type: "button", class: "tool", on: { click: () => { take(null); control.focus(); } } }, "Remove");

  function take(file) {
    write(file ? files.add(file) : null);
    control.value = ""; // so that the same file can be chosen again
    control.dispatchEvent(new Event("input", { bubbles: true }));
  }

  function write(value) {
    name = value ?? undefined;
    const file = name && files.get(name);
    if (preview) URL.revokeObjectURL(preview);
    preview = file ? URL.createObjectURL(file) : null;
    word.textContent = file ? "Replace" : "Choose a file";
    fill(about, file && [el("img", { src: preview, alt: "" }), el("span", {}, file.name, " ", el("span", { class: "hint" }, bytes(file.size)))]);
    if (name && !file) fill(about, el("strong", { class: "part-lost" }, `“${name}” has to be chosen again: this page holds no file over a reload or for another job.`));
    remove.hidden = !name;
  }

  write(null);
  return { control, holder: el("label", { class: "tool part-button" }, word, control), extra: [remove, about], read: () => name, write };
}
