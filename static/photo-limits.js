// Checks a photo against the limits of the service before it is uploaded.

import { formatBytes, formatName, joinOr } from "/static/format.js";

/** A sentence that says why the service would refuse a file of this type and size, or null if it accepts the file. */
export function fileFault(file, limits, mediaTypes) {
  const type = /\.hei[cf]$/i.test(file.name) ? "image/heic" : file.type;
  if (/^image\/hei[cf]/.test(type) && !mediaTypes.includes(type)) return "This service cannot read HEIC. Export the photo as JPEG and choose that file.";
  if (file.size === 0) return `${file.name} is empty. Choose another file.`;
  if (file.size > limits.upload_bytes) {
    return `${file.name} has ${formatBytes(file.size)}; the limit is ${formatBytes(limits.upload_bytes)}. Save it with lower quality or fewer pixels, then choose it again.`;
  }
  if (type && !mediaTypes.includes(type)) {
    return `${file.name} is not an image that this service can read. Choose a ${joinOr(mediaTypes.map(formatName))}.`;
  }
  return null;
}

/** A sentence that says why the service would refuse a photo of this width and height, or null if it accepts the photo. */
export function pixelFault({ width, height }, limits) {
  const side = Math.max(width, height);
  if (width * height > limits.pixels) {
    return `The photo has ${Math.ceil((width * height) / 1e6)} megapixels; the limit is ${limits.pixels / 1e6}. Make it smaller, then choose it again.`;
  }
  if (side > limits.side) return `The longer side of the photo has ${side} pixels; the limit is ${limits.side}. Make it smaller, then choose it again.`;
  return null;
}
