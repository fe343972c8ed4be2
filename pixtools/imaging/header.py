"""What an image file says of its size before it is decoded, held against limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO

from PIL import Image

from pixtools.errors import ImageTooLarge
from pixtools.imaging.formats import HEAD_BYTES, MEDIA_TYPES, sniff
from pixtools.imaging.guard import decoding
from pixtools.imaging.orientation import upright_size
from pixtools.imaging.picture import Size


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

    Raises UnsupportedType, CorruptImage or ImageTooLarge.
    """
    data.seek(0)
    kind = sniff(data.read(HEAD_BYTES))
    data.seek(0)
    with decoding(), Image.open(data, formats=[kind]) as image:
        check_size(image.size, 1, limits)
        # Counting walks the whole file, which is worth it only once the size of one frame is known to be fair.
        frames = _count_frames(image, limits.frames)
        check_size(image.size, frames, limits)
        width, height = upright_size(image)
        return Header(MEDIA_TYPES[kind], width, height, frames)


def check_size(size: Size, frames: int, limits: Limits) -> None:
    """Raise ImageTooLarge, in words for whoever sent the picture, if it is more than `limits` allow."""
    width, height = size
    if max(size) > limits.side:
        raise ImageTooLarge(f"{width} × {height} pixels: a side may have at most {limits.side:,} pixels.")
    if frames > limits.frames:
        raise ImageTooLarge(f"{frames:,} frames: at most {limits.frames:,} are accepted.")
    if width * height * frames > limits.pixels:
        count = f"{width} × {height}" + (f" × {frames} frames" if frames > 1 else "")
        raise ImageTooLarge(f"{count} is more than {limits.pixels / 1e6:g} megapixels, the most accepted.")


def _count_frames(image: Image.Image, most: int) -> int:
    """Return the number of frames; of a TIFF, which is slow to count, no more than one above `most`."""
    if image.format == "TIFF":
        try:
            image.seek(most)
        except EOFError:
            pass
        else:
            return most + 1
        finally:
            image.seek(0)
    return int(getattr(image, "n_frames", 1))
