"""What an image file says of its size before it is decoded, held against limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import IO

from PIL import Image

from pixtools.errors import CorruptImage, ImageTooLarge
from pixtools.imaging import gif_frames, jpeg_segments, png_chunks, tiff_tags
from pixtools.imaging.codec_errors import decoding
from pixtools.imaging.formats import HEAD_BYTES, MEDIA_TYPES, sniff
from pixtools.imaging.orientation import upright_size
from pixtools.imaging.picture import Size

_CHECKS: dict[str, Callable[[IO[bytes]], None]] = {
    "JPEG": jpeg_segments.check,
    "PNG": png_chunks.check,
    "TIFF": tiff_tags.check,
}
"""What refuses a file of so many pieces that Pillow would take long to open it."""


@dataclass(frozen=True)
class Limits:
    pixels: int  # over all frames
    side: int
    frames: int


@dataclass(frozen=True)
class Header:
    """What an image file says of itself before it is decoded; `width` and `height` are upright."""

    media_type: str
    width: int
    height: int
    frames: int


def inspect(data: IO[bytes], limits: Limits) -> Header:
    """Read the header of a seekable binary file and hold it against `limits`; no pixel is decoded.

    Nothing breaks it off: so it must take a second or two of a processor at most, whatever the file holds. Known to
    take more is an AVIF whose EXIF has millions of fractions for its orientation: 7 s for 25 MB.

    Raises UnsupportedType, CorruptImage or ImageTooLarge.
    """
    data.seek(0)
    head = data.read(HEAD_BYTES)
    kind = sniff(head)
    data.seek(0)
    with decoding():
        if kind == "GIF":
            return _inspect_gif(data.read(), limits)
        if kind == "WEBP":
            check_size(webp_size(head), 1, limits)  # before its decoder takes memory for the canvas
        elif kind in _CHECKS:
            _CHECKS[kind](data)
            data.seek(0)
        with Image.open(data, formats=[kind]) as image:
            frames = frame_count(image, kind)
            check_size(image.size, frames, limits)
            width, height = upright_size(image)
            return Header(MEDIA_TYPES[kind], width, height, frames)


def _inspect_gif(data: bytes, limits: Limits) -> Header:
    found = gif_frames.parse(data, limits.frames + 1)
    check_size(found.extent, len(found.frames), limits)
    return Header(MEDIA_TYPES["GIF"], *found.size, len(found.frames))


def webp_size(head: bytes) -> Size:
    """Return the size of a WebP's canvas (RFC 9649), 0 × 0 if that is not where it should be."""
    match head[12:16]:
        case b"VP8X":
            return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
        case b"VP8L":
            sides = int.from_bytes(head[21:25], "little")
            return 1 + (sides & 0x3FFF), 1 + (sides >> 14 & 0x3FFF)
        case b"VP8 ":
            return int.from_bytes(head[26:28], "little") & 0x3FFF, int.from_bytes(head[28:30], "little") & 0x3FFF
    return 0, 0


def frame_count(image: Image.Image, kind: str) -> int:
    """Return the number of frames of an animation, as its header has it, and 1 for all else.

    Pages of a TIFF and further pictures of a JPEG or HEIC are no animation: the first is the picture.
    """
    if kind not in ("PNG", "WEBP", "AVIF"):
        return 1
    # Pillow counts the default image of an animated PNG that is no part of the animation.
    return int(getattr(image, "n_frames", 1)) - bool(image.info.get("default_image"))


def check_size(size: Size, frames: int, limits: Limits) -> None:
    """Raise ImageTooLarge, in words for whoever sent the picture, if it is more than `limits` allow.

    Raises CorruptImage if it has no pixel. There may be more frames than `frames` where those are too many already.
    """
    width, height = size
    if min(size) < 1:
        raise CorruptImage(f"Its header says {width} × {height} pixels. Check that it opens in a viewer.")
    if max(size) > limits.side:
        raise ImageTooLarge(f"{width} × {height} pixels: a side may have at most {limits.side:,} pixels.")
    if frames > limits.frames:
        raise ImageTooLarge(f"At least {frames:,} frames: at most {limits.frames:,} are accepted.")
    if width * height * frames > limits.pixels:
        count = f"{width} × {height}" + (f" × {frames} frames" if frames > 1 else "")
        raise ImageTooLarge(f"{count} is more than {limits.pixels / 1e6:g} megapixels, the most accepted.")
