"""The frames of an animated PNG, each as a PNG of its own for the decoder.

Pillow's own composition blends half-transparent pixels wrongly, clears to the first colour of a palette, and lays the
animation over the default image.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Iterator

from PIL import Image

from pixtools.imaging.animation import After, Layer, compose
from pixtools.imaging.color import normalise
from pixtools.imaging.picture import Picture, Size
from pixtools.imaging.png_chunks import SIGNATURE, chunk, chunks

_AFTER = (After.STAYS, After.CLEARED, After.RESTORED)


def read(data: bytes, icc: bytes | None, loops: int) -> Picture:
    """Decode the frames of an animation as they are seen; a default image that is none of them is left out."""
    size = struct.unpack_from(">II", data, 16)
    return compose(size, (_layer(control, alone, size, icc) for control, alone in _frames(data)), loops)


def _frames(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield each frame's fcTL and its pixels as a PNG. Raises ValueError unless there are as many as acTL says."""
    head, control = b"", b""
    shared: dict[bytes, bytes] = {}  # palette and transparency, of which a reader takes the last before the pixels
    pixels: list[bytes] = []
    total = frames = 0
    begun = False
    for kind, body in _in_order(chunks(data)):
        if kind in (b"fcTL", b"IEND") and control:
            ihdr = chunk(b"IHDR", control[4:12] + head[8:])
            idat = chunk(b"IDAT", b"".join(pixels))
            yield control, b"".join((SIGNATURE, ihdr, *shared.values(), idat, chunk(b"IEND", b"")))
            pixels.clear()
            frames += 1
            if frames == total:
                return
        begun = begun or kind == b"IDAT"
        match kind:
            case b"IHDR":
                head = body
            case b"acTL":
                (total,) = struct.unpack_from(">I", body)
            case b"PLTE" | b"tRNS" if not begun:
                shared[kind] = chunk(kind, body)
            case b"fcTL":
                control = body
            case b"IDAT" if control:  # or else it is the default image
                pixels.append(body)
            case b"fdAT":
                pixels.append(body[4:])
    raise ValueError(f"it has {frames} frames and says that it has {total}")


def _in_order(found: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    """Pass chunks on. Raises ValueError where those of frames are not numbered one after the other."""
    number = 0
    for kind, body in found:
        if kind in (b"fcTL", b"fdAT"):
            if int.from_bytes(body[:4], "big") != number:
                raise ValueError("the frames of the animation are out of order")
            number += 1
        yield kind, body


def _layer(control: bytes, alone: bytes, size: Size, icc: bytes | None) -> Layer:
    width, height, left, top, delay, per, after, over = struct.unpack_from(">4xIIIIHHBB", control)
    if left + width > size[0] or top + height > size[1]:
        raise ValueError("a frame reaches outside of the picture")
    with Image.open(io.BytesIO(alone), formats=["PNG"]) as image:
        picture = normalise(image, icc)
    return Layer(picture, left, top, over == 1, _AFTER[after], round(1000 * delay / (per or 100)))
