"""Reads the header of an image file and checks the header against limits, before any pixel is decoded.

The limits come from the settings: `max_pixels`, `max_side` and `max_frames` in `settings.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import IO

from PIL import Image

from pixtools.errors import CorruptImage, ImageTooLarge
from pixtools.imaging import gif_frames, jpeg_segments, png_chunks, tiff_tags, webp_chunks
from pixtools.imaging.codec_errors import decoding
from pixtools.imaging.formats import HEAD_BYTES, MEDIA_TYPES, sniff
from pixtools.imaging.orientation import orientation_in, turned_size, upright_size
from pixtools.imaging.picture import Size
from pixtools.limits import Limits

_STRUCTURE_CHECKS: dict[str, Callable[[IO[bytes]], None]] = {
    "JPEG": jpeg_segments.check_segments,
    "PNG": png_chunks.check_chunks,
    "TIFF": tiff_tags.check_tags,
    "AVIF": tiff_tags.check_embedded_tags,
    "HEIF": tiff_tags.check_embedded_tags,
}
"""A check for each of these formats. The check raises CorruptImage if the file has so many segments, chunks or values
that Pillow would take long to open the file."""


@dataclass(frozen=True)
class Header:
    """The facts in the header of an image file. `width` and `height` are those of the upright picture, in pixels."""

    media_type: str
    width: int
    height: int
    frames: int


def inspect(data: IO[bytes], limits: Limits) -> Header:
    """Read the header of a seekable binary file and check it against `limits`. No pixel is decoded.

    The time depends on the content of the file, because Pillow opens it. So the ingress calls this function in another
    process, with a deadline. `serve/inspection.py` does that.

    Raises UnsupportedType if the format is unknown, CorruptImage if the header is damaged, and ImageTooLarge.
    """
    data.seek(0)
    head = data.read(HEAD_BYTES)
    format_name = sniff(head)
    data.seek(0)
    with decoding():
        if format_name == "GIF":
            return _inspect_gif(data.read(), limits)
        if format_name == "WEBP":
            return _inspect_webp(data, webp_size(head), limits)
        if format_name in _STRUCTURE_CHECKS:
            _STRUCTURE_CHECKS[format_name](data)
            data.seek(0)
        with Image.open(data, formats=[format_name]) as image:
            frames = frame_count(image, format_name)
            check_size(image.size, frames, limits)
            width, height = upright_size(image)
            return Header(MEDIA_TYPES[format_name], width, height, frames)


def _inspect_gif(data: bytes, limits: Limits) -> Header:
    gif = gif_frames.parse(data, limits.frames + 1)
    check_size(gif.extent, len(gif.frames), limits)
    return Header(MEDIA_TYPES["GIF"], *gif.size, len(gif.frames))


def _inspect_webp(data: IO[bytes], size: Size, limits: Limits) -> Header:
    webp = webp_chunks.parse(data)
    check_size(size, webp.frames, limits)
    return Header(MEDIA_TYPES["WEBP"], *turned_size(size, orientation_in(webp.exif)), webp.frames)


def webp_size(head: bytes) -> Size:
    """Return the canvas size of a WebP (RFC 9649) from its first 30 bytes.

    Return (0, 0) if the first chunk is unknown.
    """
    match head[12:16]:
        case b"VP8X":
            return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
        case b"VP8L":
            packed = int.from_bytes(head[21:25], "little")
            return 1 + (packed & 0x3FFF), 1 + (packed >> 14 & 0x3FFF)
        case b"VP8 ":
            return int.from_bytes(head[26:28], "little") & 0x3FFF, int.from_bytes(head[28:30], "little") & 0x3FFF
    return 0, 0


def frame_count(image: Image.Image, format_name: str) -> int:
    """Return the number of frames of a PNG, WebP or AVIF, and 1 for other formats. Do not call this function for a GIF.

    The pages of a TIFF and the pictures of a JPEG or HEIC are not an animation. Only the first page or picture is used.
    """
    if format_name not in ("PNG", "WEBP", "AVIF"):
        return 1
    # Subtract 1 for a default image of a PNG. Pillow counts it, although it does not belong to the animation.
    return int(getattr(image, "n_frames", 1)) - bool(image.info.get("default_image"))


def check_size(size: Size, frames: int, limits: Limits) -> None:
    """Raise ImageTooLarge if an image exceeds `limits`, and CorruptImage if it has no pixel.

    If `frames` exceeds the limit, the image may have even more frames, because counting may stop above the limit.
    """
    width, height = size
    if min(size) < 1:
        raise CorruptImage(f"The header declares {width} × {height} pixels. Check that the file opens in a viewer.")
    if max(size) > limits.side:
        raise ImageTooLarge(f"{width} × {height} pixels is too large: a side may have at most {limits.side:,} pixels.")
    if frames > limits.frames:
        raise ImageTooLarge(f"The image has at least {frames:,} frames, but the limit is {limits.frames:,} frames.")
    if width * height * frames > limits.pixels:
        count = f"{width} × {height}" + (f" × {frames} frames" if frames > 1 else "")
        raise ImageTooLarge(f"{count} is more than the limit of {limits.pixels / 1e6:g} megapixels.")
