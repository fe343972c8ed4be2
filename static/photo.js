// The photo of the next job. The user chooses, drops or pastes the photo. The page checks the photo and shows it.

import { announce } from "/static/announce.js";
import { el, fill } from "/static/element.js";
import { dimensions, formatBytes, formatName, joinAnd } from "/static/format.js";
import { fileFault, pixelFault } from "/static/photo-limits.js";

const at = (id) => document.getElementById(id);

/**
 * Let the user choose the photo. `onChange` is called after each change. Returns {file, fault, take(files)}. `file` is
 * the photo, and `fault` is the reason why the service would refuse the photo. `take` replaces the photo.
 */
export function photoPicker({ limits, mediaTypes, onChange }) {
  const input = at("photo-input");
  const self = { file: null, fault: null, take };
  let previewUrl = null;

  input.addEventListener("change", () => {
    take([...input.files]);
    input.value = ""; // otherwise choosing the same file again would cause no event
  });
  at("photo-replace").addEventListener("click", () => input.click());
  at("photo-remove").addEventListener("click", () => { take([]); input.focus(); });
  input.accept = mediaTypes.join(); // if this list has no HEIC, an iPhone converts its photos to JPEG before the upload
  at("photo-limits").textContent =
    `${joinAnd(mediaTypes.map(formatName))}, up to ${formatBytes(limits.upload_bytes)} and ${limits.pixels / 1e6} megapixels. You can also paste a photo.`;

  async function take(files) {
    const [file = null] = files;
    if (previewUrl) URL.revokeObjectURL(previewUrl);
    previewUrl = file && URL.createObjectURL(file);
    self.file = file;
    self.fault = file && fileFault(file, limits, mediaTypes);
    const hadFocus = at("drop-zone").contains(document.activeElement);
    at("drop-zone").hidden = Boolean(file);
    at("photo").hidden = !file;
    if (file) show(file, self.fault, files.length);
    if (file && hadFocus) at("photo-replace").focus({ preventScroll: true }); // the control that had the focus is hidden now
    onChange();
    if (file && !self.fault) await measure(file);
  }

  // The service can read some formats that a browser cannot show, such as TIFF.
  async function measure(file) {
    const picture = el("img", { src: previewUrl, alt: `Preview of ${file.name}` });
    try {
      await picture.decode();
    } catch {
      if (self.file === file) fill(at("photo-picture"), el("p", { class: "no-picture" }, "This browser cannot show the photo. The service may still be able to read it."));
      return;
    }
    if (self.file !== file) return;
    const size = { width: picture.naturalWidth, height: picture.naturalHeight };
    showDetails(file, size);
    fill(at("photo-picture"), picture);
    self.fault ??= pixelFault(size, limits);
    if (self.fault) showNote(self.fault, true);
    onChange();
  }

  return self;
}

function show(file, fault, count) {
  at("photo-name").textContent = file.name;
  showDetails(file, {});
  fill(at("photo-picture"));
  at("photo-picture").hidden = Boolean(fault);
  showNote(fault ?? (count > 1 ? `You gave ${count} files. A job has one photo, so this page took the first file.` : null), Boolean(fault));
  announce(fault ?? `${file.name} chosen`);
}

function showNote(text, isFault) {
  at("photo-note").textContent = text ?? "";
  at("photo-note").classList.toggle("bad", isFault);
  at("photo-note").hidden = !text;
}

function showDetails(file, size) {
  at("photo-details").textContent = [file.type && formatName(file.type), dimensions(size), formatBytes(file.size)].filter(Boolean).join(" · ");
}
