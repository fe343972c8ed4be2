"""Writes animations byte by byte. So a test itself decides every frame, delay and disposal.

An encoder could change these values.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

KEEP, CLEAR, RESTORE = 0, 1, 2
"""What happens when the time of a frame is over: it stays, its area is cleared, or the earlier pixels come back."""

PALETTE = np.array([[0, 0, 0], [250, 0, 0], [0, 250, 0], [0, 0, 250]], np.uint8)
"""The four colours of every `gif`."""


@dataclass(frozen=True)
class Frame:
    """A frame, as the file stores it.

    In a GIF, `pixels` are indices into PALETTE, (H, W). In a PNG, they are samples, (H, W, C).
    """

    pixels: NDArray[np.uint8]
    left: int = 0
    top: int = 0
    duration: int = 100  # milliseconds
    disposal: int = KEEP
    blends: bool = False  # alpha mixes the frame with the pixels below; only in a PNG


def filled(index: int, width: int = 4, height: int = 3) -> NDArray[np.uint8]:
    """Return the pixels of a frame, (H, W). All of them have this index."""
    return np.full((height, width), index, np.uint8)


def colours(indices: NDArray[np.uint8], transparent: int | None = None) -> NDArray[np.uint8]:
    """Return the colours of GIF indices as RGBA (H, W, 4)."""
    alpha = np.where(indices == transparent, 0, 255).astype(np.uint8)
    return np.where(alpha[..., None] > 0, np.dstack([PALETTE[indices], alpha]), 0).astype(np.uint8)


def gif(
    size: tuple[int, int], frames: Sequence[Frame], *, repeats: int | None = 0, transparent: int | None = None
) -> bytes:
    """Return a GIF. `repeats` is the number of repeats: 0 means for ever, and None omits the NETSCAPE extension."""
    data = b"GIF89a" + struct.pack("<HHBBB", *size, 0x81, 0, 0) + PALETTE.tobytes()
    if repeats is not None:
        data += b"!\xff\x0bNETSCAPE2.0\x03\x01" + struct.pack("<H", repeats) + b"\0"
    for frame in frames:
        method = {KEEP: 1, CLEAR: 2, RESTORE: 3}[frame.disposal]
        flags = method << 2 | (transparent is not None)
        data += b"!\xf9\x04" + struct.pack("<BHB", flags, frame.duration // 10, transparent or 0) + b"\0"
        height, width = frame.pixels.shape
        data += b"," + struct.pack("<HHHHB", frame.left, frame.top, width, height, 0) + b"\x02" + _blocks(frame.pixels)
    return data + b";"


def _blocks(indices: NDArray[np.uint8]) -> bytes:
    """Return the indices as LZW data. A clear code before each index keeps all codes at three bits."""
    codes = [code for index in indices.ravel() for code in (4, int(index))] + [5]
    bits = sum(code << 3 * at for at, code in enumerate(codes))
    packed = bits.to_bytes((3 * len(codes) + 7) // 8, "little")
    pieces = (packed[at : at + 255] for at in range(0, len(packed), 255))
    return b"".join(bytes([len(piece)]) + piece for piece in pieces) + b"\0"


def apng(
    frames: Sequence[Frame],
    *,
    plays: int = 0,
    default: NDArray[np.uint8] | None = None,
    colour: int = 6,
    depth: int = 8,
    shared: tuple[tuple[bytes, bytes], ...] = (),
    declared: int | None = None,
) -> bytes:
    """Return an animated PNG.

    `default` is a still image that does not belong to the animation. `shared` are chunks before the frames. `declared`
    replaces the number of frames in the acTL chunk. If `depth` is 16, each sample is two bytes along the last axis of
    the pixels.
    """
    first = frames[0].pixels if default is None else default
    header = struct.pack(">IIBBBBB", first.shape[1], first.shape[0], depth, colour, 0, 0, 0)
    chunks = [
        (b"IHDR", header),
        (b"acTL", struct.pack(">II", len(frames) if declared is None else declared, plays)),
        *shared,
    ]
    number = 0
    if default is not None:
        chunks.append((b"IDAT", _packed(default)))
    for at, frame in enumerate(frames):
        height, width = frame.pixels.shape[:2]
        area = struct.pack(">IIII", width, height, frame.left, frame.top)
        control = struct.pack(">HHBB", frame.duration, 1000, frame.disposal, frame.blends)
        chunks.append((b"fcTL", struct.pack(">I", number) + area + control))
        number += 1
        if at == 0 and default is None:
            chunks.append((b"IDAT", _packed(frame.pixels)))
        else:
            chunks.append((b"fdAT", struct.pack(">I", number) + _packed(frame.pixels)))
            number += 1
    chunks.append((b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def _packed(pixels: NDArray[np.uint8]) -> bytes:
    rows = pixels.reshape(pixels.shape[0], -1)
    return zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
