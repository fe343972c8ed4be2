"""The chunks of a PNG (PNG 3, section 5)."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from pixtools.errors import CorruptImage

SIGNATURE = b"\x89PNG\r\n\x1a\n"

# Encoders write pixels in chunks of 8 kB and more: 100,000 are 800 MB. Text and profiles may grow a thousandfold as
# Pillow decompresses them, each up to a megabyte.
_MOST_CHUNKS, _MOST_COMPRESSED = 100_000, 256
_COMPRESSED = (b"zTXt", b"iTXt", b"iCCP")


@dataclass(frozen=True, slots=True)
class Chunk:
    kind: bytes
    start: int  # of its content
    size: int


def walk(file: IO[bytes]) -> Iterator[Chunk]:
    """Yield each chunk up to IEND or the end of the file, whose position is the reader's to move and to put back.

    Checksums are not looked at. Raises CorruptImage where there are more than a picture has: each costs time.
    """
    at, compressed, number = len(SIGNATURE), 0, 0
    file.seek(at)
    while len(head := file.read(8)) == 8:  # noqa: PLR2004
        size, kind = struct.unpack(">I4s", head)
        number += 1
        compressed += kind in _COMPRESSED
        if number > _MOST_CHUNKS or compressed > _MOST_COMPRESSED:
            what = f"{_MOST_CHUNKS:,} chunks" if number > _MOST_CHUNKS else f"{_MOST_COMPRESSED} texts and profiles"
            raise CorruptImage(
                f"It has more than {what}, which no picture needs. Open it in an editor and export it anew."
            )
        yield Chunk(kind, at + 8, size)
        if kind == b"IEND":
            return
        at += 12 + size
        file.seek(at)


def check(file: IO[bytes]) -> None:
    """Raise CorruptImage where there are more chunks than a picture has. The file is left anywhere."""
    for _ in walk(file):
        pass


def chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield type and content of each chunk up to IEND, wherever it stands. Raises SyntaxError on a broken checksum."""
    for found in walk(io.BytesIO(data)):
        end = found.start + found.size
        body = data[found.start : end]
        if data[end : end + 4] != _checksum(found.kind, body):
            raise SyntaxError(f"broken or truncated chunk {found.kind!r}")
        yield found.kind, body
        if found.kind == b"IEND":
            return
    raise EOFError("the file ends too early")


def chunk(kind: bytes, body: bytes) -> bytes:
    """Return a chunk as it stands in a file."""
    return struct.pack(">I", len(body)) + kind + body + _checksum(kind, body)


def _checksum(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", zlib.crc32(kind + body))
