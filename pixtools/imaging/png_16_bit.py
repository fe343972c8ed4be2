"""PNG of 16 bits for each number, which Pillow writes for grey alone."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pixtools.imaging.encoding import encode as encode_8_bit
from pixtools.imaging.picture import Picture
from pixtools.imaging.png_chunks import SIGNATURE, chunk, chunks

_COLOR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # by the number of channels (PNG 3, section 11.2.1)
_BAND_BYTES = 1 << 20  # filtered at a time, in five ways


def encode(picture: Picture, *, compress_level: int, compress_type: int = zlib.Z_DEFAULT_STRATEGY) -> bytes:
    """Encode the 16-bit numbers of a still, with profile and notes as the encoder of 8 bits writes them."""
    assert picture.deep is not None  # noqa: S101 (or it is not asked)
    pixels = picture.deep[0]  # (H, W, C)
    # What stands around the pixels is the same whatever they are.
    around = encode_8_bit(replace(picture, frames=(Image.new(picture.mode, (1, 1)),), deep=None), "PNG")
    written = [SIGNATURE]
    for kind, body in chunks(around):
        if kind == b"IHDR":
            height, width, channels = pixels.shape
            written.append(chunk(kind, struct.pack(">IIBBBBB", width, height, 16, _COLOR_TYPES[channels], 0, 0, 0)))
        elif kind == b"IDAT":
            packer = zlib.compressobj(compress_level, strategy=compress_type)
            written += [chunk(kind, packed) for band in _bands(pixels) if (packed := packer.compress(band))]
            written.append(chunk(kind, packer.flush()))
        else:
            written.append(chunk(kind, body))
    return b"".join(written)


def _bands(pixels: NDArray[np.uint16]) -> Iterator[bytes]:
    """Yield rows with the bytes of their filters in front, some at a time."""
    height, width, channels = pixels.shape
    step = max(1, _BAND_BYTES // (2 * width * channels))
    above = np.zeros(2 * width * channels, dtype=np.uint8)
    for top in range(0, height, step):
        band = pixels[top : top + step]
        rows = band.astype(">u2").view(np.uint8).reshape(len(band), -1)
        yield _filtered(rows, above, 2 * channels).tobytes()
        above = rows[-1]


def _filtered(rows: NDArray[np.uint8], above: NDArray[np.uint8], pixel_bytes: int) -> NDArray[np.uint8]:
    """Return (n, 1 + bytes): each row by the filter whose result is nearest to zero (PNG 3, sections 9 and 12.7)."""
    up = np.vstack([above[None], rows[:-1]])
    left, corner = np.zeros_like(rows), np.zeros_like(rows)
    left[:, pixel_bytes:], corner[:, pixel_bytes:] = rows[:, :-pixel_bytes], up[:, :-pixel_bytes]
    mean = ((left.astype(np.uint16) + up) // 2).astype(np.uint8)
    ways = np.stack([rows, rows - left, rows - up, rows - mean, rows - _paeth(left, up, corner)])  # (5, n, bytes)
    best = np.minimum(ways, -ways).sum(axis=2, dtype=np.int64).argmin(axis=0)  # as signed numbers, without sign
    return np.hstack([best.astype(np.uint8)[:, None], ways[best, np.arange(len(rows))]])


def _paeth(left: NDArray[np.uint8], up: NDArray[np.uint8], corner: NDArray[np.uint8]) -> NDArray[np.uint8]:
    across, down = up.astype(np.int16) - corner, left.astype(np.int16) - corner
    to_left, to_up, to_corner = np.abs(across), np.abs(down), np.abs(across + down)
    return np.where((to_left <= to_up) & (to_left <= to_corner), left, np.where(to_up <= to_corner, up, corner)).astype(
        np.uint8
    )
