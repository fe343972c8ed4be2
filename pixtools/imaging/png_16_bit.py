"""Encodes PNGs with 16 bits for each value. Pillow can write 16 bits only for grey."""

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

_COLOR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # the keys are numbers of channels (PNG 3, section 11.2.1)
_BAND_BYTES = 1 << 20  # of rows that are filtered at a time; filtering makes more than five copies of these rows


def encode(picture: Picture, *, compress_level: int, compress_type: int = zlib.Z_DEFAULT_STRATEGY) -> bytes:
    """Encode the 16-bit values of a still. The 8-bit encoder makes the chunks of the profile and of the metadata.

    `picture.pixels_16` must be set. `compress_level` and `compress_type` are zlib's level and strategy.
    `memory_bounds.of_encoding_16_bit` returns the memory that this function may take.
    """
    assert picture.pixels_16 is not None  # noqa: S101 (the caller checks it)
    pixels = picture.pixels_16[0]  # (H, W, C)
    # The chunks of the profile and the metadata do not depend on the pixels. Take them from an 8-bit PNG of one pixel.
    template = encode_8_bit(replace(picture, frames=(Image.new(picture.mode, (1, 1)),), pixels_16=None), "PNG")
    written = [SIGNATURE]
    for chunk_type, body in chunks(template):
        if chunk_type == b"IHDR":
            height, width, channels = pixels.shape
            header = struct.pack(">IIBBBBB", width, height, 16, _COLOR_TYPES[channels], 0, 0, 0)
            written.append(chunk(chunk_type, header))
        elif chunk_type == b"IDAT":
            packer = zlib.compressobj(compress_level, strategy=compress_type)
            written += [chunk(chunk_type, packed) for band in _bands(pixels) if (packed := packer.compress(band))]
            written.append(chunk(chunk_type, packer.flush()))
        else:
            written.append(chunk(chunk_type, body))
    return b"".join(written)


def _bands(pixels: NDArray[np.uint16]) -> Iterator[bytes]:
    """Yield bands of filtered rows. Each row begins with the number of its filter."""
    height, width, channels = pixels.shape
    band_height = max(1, _BAND_BYTES // (2 * width * channels))
    row_above = np.zeros(2 * width * channels, dtype=np.uint8)
    for top in range(0, height, band_height):
        band = pixels[top : top + band_height]
        rows = band.astype(">u2").view(np.uint8).reshape(len(band), -1)  # (rows, bytes)
        yield _filtered(rows, row_above, 2 * channels).tobytes()
        row_above = rows[-1]


def _filtered(rows: NDArray[np.uint8], row_above: NDArray[np.uint8], pixel_bytes: int) -> NDArray[np.uint8]:
    """Filter n rows, an array (n, bytes). Return the rows with the number of the filter in front, (n, 1 + bytes).

    For each row, the filter with the smallest sum of absolute values is chosen. For the sum, the filtered bytes count
    as signed numbers (PNG 3, sections 9 and 12.7).
    """
    up = np.vstack([row_above[None], rows[:-1]])
    left, up_left = np.zeros_like(rows), np.zeros_like(rows)
    left[:, pixel_bytes:], up_left[:, pixel_bytes:] = rows[:, :-pixel_bytes], up[:, :-pixel_bytes]
    mean = ((left.astype(np.uint16) + up) // 2).astype(np.uint8)
    filtered = np.stack([rows, rows - left, rows - up, rows - mean, rows - _paeth(left, up, up_left)])  # (5, n, bytes)
    best = np.minimum(filtered, -filtered).sum(axis=2, dtype=np.int64).argmin(axis=0)  # (n,)
    return np.hstack([best.astype(np.uint8)[:, None], filtered[best, np.arange(len(rows))]])


def _paeth(left: NDArray[np.uint8], up: NDArray[np.uint8], up_left: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the Paeth predictor of each byte: left, up or upper left, whichever is nearest to left + up - up_left."""
    across, down = up.astype(np.int16) - up_left, left.astype(np.int16) - up_left
    to_left, to_up, to_up_left = np.abs(across), np.abs(down), np.abs(across + down)
    up_or_up_left = np.where(to_up <= to_up_left, up, up_left)
    return np.where((to_left <= to_up) & (to_left <= to_up_left), left, up_or_up_left).astype(np.uint8)
