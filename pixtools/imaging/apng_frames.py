"""Reads animated PNGs.

This module rewrites each frame as a separate PNG file in memory. Pillow decodes these files, and `animation` composes
the frames. Pillow does not compose the frames, because it would make three mistakes: it blends half-transparent pixels
wrongly, it clears an area to the first colour of the palette, and it draws the animation over the default image.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Iterator

from PIL import Image

from pixtools.imaging.animation import Disposal, Layer, compose
from pixtools.imaging.color import normalise
from pixtools.imaging.picture import Picture, Size
from pixtools.imaging.png_chunks import SIGNATURE, chunk, chunks

_DISPOSALS = (Disposal.KEEP, Disposal.CLEAR, Disposal.RESTORE)  # the index is the value of dispose_op (PNG 3, 11.3.6.2)


def read(data: bytes, icc: bytes | None, loops: int) -> Picture:
    """Decode the frames of an animated PNG and compose them. A default image outside the animation is left out.

    `icc` is the profile of the file. Raises ValueError, SyntaxError or another of `DECODER_ERRORS` if the file is
    damaged.
    """
    size = struct.unpack_from(">II", data, 16)
    return compose(size, (_layer(control, still, size, icc) for control, still in _frames(data)), loops)


def _frames(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the fcTL chunk of each frame, and the frame as a PNG file.

    Raises ValueError if the file has fewer frames than its acTL chunk declares.
    """
    header, control = b"", b""
    # The chunks of palette and transparency. Of repeated chunks before the pixels, the last counts, as in Pillow.
    shared: dict[bytes, bytes] = {}
    pixels: list[bytes] = []
    total = frames = 0
    pixels_began = False
    for chunk_type, body in _in_order(chunks(data)):
        if chunk_type in (b"fcTL", b"IEND") and control:
            ihdr = chunk(b"IHDR", control[4:12] + header[8:])
            idat = chunk(b"IDAT", b"".join(pixels))
            yield control, b"".join((SIGNATURE, ihdr, *shared.values(), idat, chunk(b"IEND", b"")))
            pixels.clear()
            frames += 1
            if frames == total:
                return
        pixels_began = pixels_began or chunk_type == b"IDAT"
        match chunk_type:
            case b"IHDR":
                header = body
            case b"acTL":
                (total,) = struct.unpack_from(">I", body)
            case b"PLTE" | b"tRNS" if not pixels_began:
                shared[chunk_type] = chunk(chunk_type, body)
            case b"fcTL":
                control = body
            case b"IDAT" if control:  # IDAT before the first fcTL is the default image, so it is left out
                pixels.append(body)
            case b"fdAT":
                pixels.append(body[4:])
    raise ValueError(f"it has {frames} frames but declares {total}")


def _in_order(all_chunks: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    """Yield the chunks unchanged. Raises ValueError if the sequence numbers of fcTL and fdAT are not 0, 1, 2, …."""
    number = 0
    for chunk_type, body in all_chunks:
        if chunk_type in (b"fcTL", b"fdAT"):
            if int.from_bytes(body[:4], "big") != number:
                raise ValueError("the frames of the animation are out of order")
            number += 1
        yield chunk_type, body


def _layer(control: bytes, still: bytes, size: Size, icc: bytes | None) -> Layer:
    width, height, left, top, delay, delay_unit, disposal, blend = struct.unpack_from(">4xIIIIHHBB", control)
    if left + width > size[0] or top + height > size[1]:
        raise ValueError("a frame extends beyond the picture")
    with Image.open(io.BytesIO(still), formats=["PNG"]) as image:
        picture = normalise(image, icc)
    return Layer(picture, left, top, blend == 1, _DISPOSALS[disposal], round(1000 * delay / (delay_unit or 100)))
