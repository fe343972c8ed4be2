"""Animations written byte by byte: layers, delays and disposals as the test says, not as an encoder chooses."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

STAYS, CLEARED, RESTORED = 0, 1, 2

PALETTE = np.array([[0, 0, 0], [250, 0, 0], [0, 250, 0], [0, 0, 250]], np.uint8)
"""The four colours of each `gif`."""


@dataclass(frozen=True)
class Part:
    """A frame: (H, W) indices of PALETTE for a GIF, (H, W, C) samples for a PNG."""

    pixels: NDArray[np.uint8]
    left: int = 0
    top: int = 0
    duration: int = 100  # milliseconds
    after: int = STAYS
    over: bool = False  # of a PNG


def full(index: int, width: int = 4, height: int = 3) -> NDArray[np.uint8]:
    return np.full((height, width), index, np.uint8)


def colours(indices: NDArray[np.uint8], transparent: int | None = None) -> NDArray[np.uint8]:
    """Return (H, W, 4): what indices of a GIF look like."""
    alpha = np.where(indices == transparent, 0, 255).astype(np.uint8)
    return np.where(alpha[..., None] > 0, np.dstack([PALETTE[indices], alpha]), 0).astype(np.uint8)


def gif(
    size: tuple[int, int], parts: Sequence[Part], *, again: int | None = 0, transparent: int | None = None
) -> bytes:
    """Return a GIF that is shown `again` times more, 0 for ever; None leaves that out."""
    data = b"GIF89a" + struct.pack("<HHBBB", *size, 0x81, 0, 0) + PALETTE.tobytes()
    if again is not None:
        data += b"!\xff\x0bNETSCAPE2.0\x03\x01" + struct.pack("<H", again) + b"\0"
    for part in parts:
        method = {STAYS: 1, CLEARED: 2, RESTORED: 3}[part.after]
        flags = method << 2 | (transparent is not None)
        data += b"!\xf9\x04" + struct.pack("<BHB", flags, part.duration // 10, transparent or 0) + b"\0"
        height, width = part.pixels.shape
        data += b"," + struct.pack("<HHHHB", part.left, part.top, width, height, 0) + b"\x02" + _blocks(part.pixels)
    return data + b";"


def _blocks(indices: NDArray[np.uint8]) -> bytes:
    """Return LZW data of codes of three bits, which a clear code before each pixel keeps at that."""
    codes = [code for index in indices.ravel() for code in (4, int(index))] + [5]
    bits = sum(code << 3 * at for at, code in enumerate(codes))
    packed = bits.to_bytes((3 * len(codes) + 7) // 8, "little")
    pieces = (packed[at : at + 255] for at in range(0, len(packed), 255))
    return b"".join(bytes([len(piece)]) + piece for piece in pieces) + b"\0"


def apng(
    parts: Sequence[Part],
    *,
    plays: int = 0,
    default: NDArray[np.uint8] | None = None,
    colour: int = 6,
    depth: int = 8,
    shared: tuple[tuple[bytes, bytes], ...] = (),
    says: int | None = None,
) -> bytes:
    """Return an APNG of colour type `colour`; a `default` image is one that is no frame.

    Samples of 16 bits are two of 8 each along the last axis.
    """
    whole = parts[0].pixels if default is None else default
    header = struct.pack(">IIBBBBB", whole.shape[1], whole.shape[0], depth, colour, 0, 0, 0)
    found = [(b"IHDR", header), (b"acTL", struct.pack(">II", len(parts) if says is None else says, plays)), *shared]
    number = 0
    if default is not None:
        found.append((b"IDAT", _packed(default)))
    for at, part in enumerate(parts):
        height, width = part.pixels.shape[:2]
        place = struct.pack(">IIII", width, height, part.left, part.top)
        how = struct.pack(">HHBB", part.duration, 1000, part.after, part.over)
        found.append((b"fcTL", struct.pack(">I", number) + place + how))
        number += 1
        if at == 0 and default is None:
            found.append((b"IDAT", _packed(part.pixels)))
        else:
            found.append((b"fdAT", struct.pack(">I", number) + _packed(part.pixels)))
            number += 1
    found.append((b"IEND", b""))
    chunks = (struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
              for kind, body in found)  # fmt: skip
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _packed(pixels: NDArray[np.uint8]) -> bytes:
    rows = pixels.reshape(pixels.shape[0], -1)
    return zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
