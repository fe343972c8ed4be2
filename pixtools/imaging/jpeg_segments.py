"""The segments of a JPEG before its pixels (ITU-T T.81, annex B), counted before Pillow reads them one by one."""

from __future__ import annotations

from typing import IO

from pixtools.errors import CorruptImage

_EXIF, _PHOTOSHOP, _TABLES, _SEGMENTS, _FILL = (
    "bytes of EXIF",
    "bytes of Photoshop's resources",
    "bytes of tables",
    "segments",
    "bytes between its segments",
)

# A profile has up to 255 segments, and extended XMP, further pictures and thermal ones as many again: those cost a copy
# each. EXIF costs a copy of all that came before; resources, tables and what is no segment, work on each few bytes.
_MOST = {_EXIF: 1_000_000, _PHOTOSHOP: 4_000_000, _TABLES: 65_536, _SEGMENTS: 1_000, _FILL: 65_536}

_APP1, _APP13, _APPS, _COMMENT = 0xE1, 0xED, range(0xE0, 0xF0), 0xFE
_SCAN = 0xDA
_FIRST = 0xC0  # of the markers that stand before a scan
_ALONE = frozenset({0xC8, *range(0xD0, 0xDA), *range(0xF0, 0xFE)})  # markers that Pillow reads no segment behind


def check(file: IO[bytes]) -> None:
    """Raise CorruptImage where more stands before the pixels than a picture has. The file is left at its end."""
    data = file.read()
    counted = dict.fromkeys(_MOST, 0)
    at = 2
    while at < len(data):
        start = data.find(b"\xff", at)
        marker = int.from_bytes(data[start + 1 : start + 2], "big")
        if start < 0:
            counted[_FILL] += len(data) - at
            at = len(data)
        elif marker in (0, 0xFF) or marker in _ALONE:
            counted[_FILL] += start - at + 1
            at = start + (1 if marker == 0xFF else 2)  # noqa: PLR2004
        elif marker == _SCAN or marker < _FIRST:
            return  # the pixels, or what no reader goes on from
        else:
            size = max(2, int.from_bytes(data[start + 2 : start + 4], "big"))
            counted[_FILL] += start - at
            counted[_SEGMENTS] += 1
            if kind := _costly(marker, data[start + 4 : start + 18]):
                counted[kind] += size
            at = start + 2 + size
        for kind, most in _MOST.items():
            if counted[kind] > most:
                raise CorruptImage(
                    f"Before its pixels stand more than {most:,} {kind}, which no picture needs. "
                    "Open it in an editor and export it anew."
                )


def _costly(marker: int, begins: bytes) -> str | None:
    """Say of which kind a segment is whose bytes are counted."""
    if marker == _APP1 and begins.startswith(b"Exif\0\0"):
        return _EXIF
    if marker == _APP13 and begins == b"Photoshop 3.0\0":
        return _PHOTOSHOP
    return None if marker in _APPS or marker == _COMMENT else _TABLES
