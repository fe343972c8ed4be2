"""Reads the structure of a WebP (RFC 9649) without decoding it.

Pillow is not used to read the header, because it copies the whole file three times.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import IO

from pixtools.errors import CorruptImage

# A file has a few chunks, and one for each frame. The limits keep the time and the memory small.
_MAX_CHUNKS, _MAX_METADATA_BYTES = 10_000, 8_000_000
_HEADER_BYTES = 12
_PIXELS = (b"VP8 ", b"VP8L", b"ANMF")
_ANIMATION = 0x02  # a flag in the first byte of VP8X


@dataclass(frozen=True)
class Webp:
    """The number of frames of a WebP, and its EXIF, which is empty if there is none."""

    frames: int
    exif: bytes


def parse(file: IO[bytes]) -> Webp:
    """Return the facts in the chunks of a WebP. This function changes the file position.

    Raises CorruptImage if the file is shorter than its header says, if no chunk holds pixels, or if there are more
    chunks or larger metadata than any picture needs.
    """
    end = file.seek(0, 2)
    file.seek(4)
    declared = int.from_bytes(file.read(4), "little") + 8
    if declared > end:
        raise CorruptImage("The WebP is shorter than its header says. Check that it opens in a viewer.")
    position, counts, exif, is_animated, number = _HEADER_BYTES, dict.fromkeys(_PIXELS, 0), b"", False, 0
    file.seek(position)
    while position + 8 <= declared:
        chunk_type, size = struct.unpack("<4sI", file.read(8))
        number += 1
        if number > _MAX_CHUNKS:
            raise _excess(f"{_MAX_CHUNKS:,} chunks")
        if chunk_type in counts:
            counts[chunk_type] += 1
        elif chunk_type == b"VP8X" and number == 1:
            is_animated = bool(int.from_bytes(file.read(1), "little") & _ANIMATION)
        elif chunk_type == b"EXIF" and not exif:
            if size > _MAX_METADATA_BYTES:
                raise _excess(f"{_MAX_METADATA_BYTES:,} bytes of EXIF")
            exif = file.read(size)
        position += 8 + size + size % 2
        file.seek(position)
    frames = counts[b"ANMF"] if is_animated else counts[b"VP8 "] + counts[b"VP8L"]
    if frames == 0:
        raise CorruptImage("The WebP has no pixels. Check that it opens in a viewer.")
    return Webp(frames if is_animated else 1, exif)


def _excess(what: str) -> CorruptImage:
    return CorruptImage(
        f"The WebP has more than {what}, which no picture needs. Open the file in an image editor and export it again."
    )
