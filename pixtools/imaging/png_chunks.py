"""Reads and writes the chunks of a PNG (PNG 3, section 5)."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from pixtools.errors import CorruptImage

SIGNATURE = b"\x89PNG\r\n\x1a\n"
"""The first eight bytes of every PNG."""

# Encoders write pixels in chunks of 8 kB or more, so 20,000 chunks are enough for 160 MB. Pillow decompresses texts and
# profiles when it opens a file. A text or profile may become a thousand times larger, up to 1 MB, so their number is
# limited too. Pillow copies the content of a chunk several times, but not the pixels, so other chunks have a limit.
_MAX_CHUNKS, _MAX_COMPRESSED, _MAX_OTHER_BYTES = 20_000, 256, 8_000_000
_PIXELS = (b"IDAT", b"fdAT")
_COMPRESSED = (b"zTXt", b"iTXt", b"iCCP")


@dataclass(frozen=True, slots=True)
class Chunk:
    """The type of a chunk, and the position of its content in the file."""

    type: bytes
    start: int  # of the content
    size: int  # of the content


def walk(file: IO[bytes]) -> Iterator[Chunk]:
    """Yield each chunk up to IEND or the end of the file. Checksums are not verified.

    When a chunk is yielded, the file position is the start of the content of the chunk. The caller may change this
    position. The position from before the walk is not restored. Raises CorruptImage if there are more chunks, or larger
    chunks, than any picture needs, because they take time and memory.
    """
    position, compressed, number = len(SIGNATURE), 0, 0
    file.seek(position)
    while len(head := file.read(8)) == 8:  # noqa: PLR2004
        size, chunk_type = struct.unpack(">I4s", head)
        number += 1
        compressed += chunk_type in _COMPRESSED
        if number > _MAX_CHUNKS:
            raise _excess(f"{_MAX_CHUNKS:,} chunks")
        if compressed > _MAX_COMPRESSED:
            raise _excess(f"{_MAX_COMPRESSED} texts and profiles")
        if size > _MAX_OTHER_BYTES and chunk_type not in _PIXELS:
            raise _excess(f"{_MAX_OTHER_BYTES:,} bytes in a chunk that holds no pixels")
        yield Chunk(chunk_type, position + 8, size)
        if chunk_type == b"IEND":
            return
        position += 12 + size
        file.seek(position)


def _excess(what: str) -> CorruptImage:
    return CorruptImage(
        f"The PNG has more than {what}, which no picture needs. Open the file in an image editor and export it again."
    )


def check_chunks(file: IO[bytes]) -> None:
    """Raise CorruptImage if there are more chunks than any picture needs. This function changes the file position."""
    for _ in walk(file):
        pass


def chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the type and the content of each chunk up to IEND.

    Raises SyntaxError if a checksum is wrong, EOFError if IEND is missing, and CorruptImage as `walk` does.
    """
    for found in walk(io.BytesIO(data)):
        end = found.start + found.size
        body = data[found.start : end]
        if data[end : end + 4] != _checksum(found.type, body):
            raise SyntaxError(f"broken or truncated chunk {found.type!r}")
        yield found.type, body
        if found.type == b"IEND":
            return
    raise EOFError("the file ends too early")


def chunk(chunk_type: bytes, body: bytes) -> bytes:
    """Return the bytes of a chunk: length, type, content, checksum."""
    return struct.pack(">I", len(body)) + chunk_type + body + _checksum(chunk_type, body)


def _checksum(chunk_type: bytes, body: bytes) -> bytes:
    return struct.pack(">I", zlib.crc32(chunk_type + body))
