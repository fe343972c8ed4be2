"""Checks the segments before the pixels of a JPEG (ITU-T T.81, annex B), because Pillow may take long to read them."""

from __future__ import annotations

from typing import IO

from pixtools.errors import CorruptImage

_EXIF, _PHOTOSHOP, _TABLES, _SEGMENTS, _FILL = (
    "bytes of EXIF",
    "bytes of Photoshop resources",
    "bytes of tables",
    "segments",
    "bytes between segments",
)

# Real files stay below these limits. A profile has up to 255 segments. Extended XMP, further pictures and thermal
# images have up to 255 segments each. Pillow copies each segment once. But for each segment of EXIF, Pillow copies all
# previous EXIF again. In resources, tables and fill bytes, Pillow runs code for every few bytes.
_LIMITS = {_EXIF: 1_000_000, _PHOTOSHOP: 4_000_000, _TABLES: 65_536, _SEGMENTS: 1_000, _FILL: 65_536}

_APP1, _APP13, _APPS, _COMMENT = 0xE1, 0xED, range(0xE0, 0xF0), 0xFE
_SCAN = 0xDA
_HEAD_BYTES = 64  # of a segment: its marker, its size and the beginning of its content
_FIRST_MARKER = 0xC0  # lower markers do not occur before a scan
_WITHOUT_SEGMENT = frozenset({0xC8, *range(0xD0, 0xDA), *range(0xF0, 0xFE)})  # no segment follows these markers


def check_segments(file: IO[bytes]) -> None:
    """Raise CorruptImage if the segments before the pixels exceed a limit.

    This function reads only the beginning of each segment, and at most 64 kB of other bytes.
    """
    counts = dict.fromkeys(_LIMITS, 0)
    position = 2
    while True:
        file.seek(position)
        head = file.read(_HEAD_BYTES)
        if not head:
            return
        fill = head.find(b"\xff") if b"\xff" in head else len(head)
        marker = int.from_bytes(head[1:2], "big")
        if fill:
            counts[_FILL] += fill
            position += fill
        elif marker in (0, 0xFF) or marker in _WITHOUT_SEGMENT:
            counts[_FILL] += 1
            position += 1 if marker == 0xFF else 2  # noqa: PLR2004
        elif marker == _SCAN or marker < _FIRST_MARKER:
            return  # the pixels begin here, or Pillow stops reading
        else:
            size = max(2, int.from_bytes(head[2:4], "big"))
            counts[_SEGMENTS] += 1
            if content := _costly_content(marker, head[4:18]):
                counts[content] += size
            position += 2 + size
        for what, limit in _LIMITS.items():
            if counts[what] > limit:
                raise CorruptImage(
                    f"The JPEG has more than {limit:,} {what} before its pixels, which no picture needs. "
                    "Open the file in an image editor and export it again."
                )


def _costly_content(marker: int, beginning: bytes) -> str | None:
    """Return the kind of bytes in a segment if the number of such bytes is limited. Otherwise return None."""
    if marker == _APP1 and beginning.startswith(b"Exif\0\0"):
        return _EXIF
    if marker == _APP13 and beginning == b"Photoshop 3.0\0":
        return _PHOTOSHOP
    return None if marker in _APPS or marker == _COMMENT else _TABLES
