// The source photo: picked, dropped or pasted, checked against the service's limits, shown.

import { announce } from "/static/announce.js";
import { el, fill } from "/static/element.js";
import { bytes, dimensions, either, format, list } from "/static/format.js";

/** {file, fault} as the photo stands; `onChange` hears each new one. */
export function photoPicker({ limits, mediaTypes, onChange }) {
  const input = document.getElementById("photo-input");
  const zone = document.getElementById("drop-zone");
  const chosen = document.getElementById("photo");
  const self = { file: null, fault: null, take };
  let preview = null;

  input.addEventListener("change", () => { take([...input.files]); input.value = ""; }); // so the same file can be picked again
  document.getElementById("photo-replace").addEventListener("click", () => input.click());
  document.getElementById("photo-remove").addEventListener("click", () => { take([]); input.focus(); });
  input.accept = mediaTypes.join(); // without HEIC in it an iPhone gives its photos as JPEG
  document.getElementById("photo-limits").textContent =
    `${list(mediaTypes.map(format))}, up to ${bytes(limits.upload_bytes)} and ${limits.pixels / 1e6} megapixels. Or paste one.`;

  async function take(files) {
    const [file = null] = files;
    if (preview) URL.revokeObjectURL(preview);
    preview = file && URL.createObjectURL(file);
    self.file = file;
    self.fault = file && faultOf(file);
    zone.hidden = Boolean(file);
    chosen.hidden = !file;
    if (file) show(file, files.length);
    onChange();
    if (file && !self.fault) await measure(file);
  }

  function show(file, count) {
    document.getElementById("photo-name").textContent = file.name;
    tell(file, {});
    fill(document.getElementById("photo-picture"));
    document.getElementById("photo-picture").hidden = Boolean(self.fault);
    note(self.fault ?? (count > 1 ? `You gave ${count} files. A job has one photo, so the first was taken.` : null));
    announce(self.fault ?? `${file.name} chosen`);
  }

  // A photo that this browser cannot show (TIFF) may still be one that the service reads.
  async function measure(file) {
    const picture = el("img", { src: preview, alt: `Preview of ${file.name}` });
    const holder = document.getElementById("photo-picture");
    try {
      await picture.decode();
    } catch {
      if (self.file === file) fill(holder, el("p", { class: "no-picture" }, "This browser cannot show it. The service may still read it."));
      return;
    }
    if (self.file !== file) return;
    const size = { width: picture.naturalWidth, height: picture.naturalHeight };
    tell(file, size);
    fill(holder, picture);
    self.fault ??= pixelFault(size);
    if (self.fault) note(self.fault);
    onChange();
  }

  function tell(file, size) {
    document.getElementById("photo-facts").textContent =
      [file.type && format(file.type), dimensions(size), bytes(file.size)].filter(Boolean).join(" · ");
  }

  function note(words) {
    const line = document.getElementById("photo-note");
    line.textContent = words ?? "";
    line.classList.toggle("bad", Boolean(self.fault));
    line.hidden = !words;
  }

  function faultOf(file) {
    const type = /\.hei[cf]$/i.test(file.name) ? "image/heic" : file.type;
    if (/^image\/hei[cf]/.test(type) && !mediaTypes.includes(type)) return "HEIC pictures are not read by this service: export it as JPEG and choose that.";
    if (file.size === 0) return `${file.name} is empty. Choose another file.`;
    if (file.size > limits.upload_bytes) {
      return `${file.name} has ${bytes(file.size)}; the limit is ${bytes(limits.upload_bytes)}. Save it at a lower quality or a smaller size and choose it again.`;
    }
    if (type && !mediaTypes.includes(type)) {
      return `${file.name} is not a picture that can be read. Choose a ${either(mediaTypes.map(format))}.`;
    }
    return null;
  }

  function pixelFault({ width, height }) {
    const side = Math.max(width, height);
    if (width * height > limits.pixels) return `It has ${Math.ceil((width * height) / 1e6)} megapixels; the limit is ${limits.pixels / 1e6}. Scale it down and choose it again.`;
    if (side > limits.side) return `It is ${side} pixels long; the limit is ${limits.side}. Scale it down and choose it again.`;
    return null;
  }

  return self;
}
