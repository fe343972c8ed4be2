"""Reads and writes the tag directories of TIFF and EXIF (TIFF 6.0, section 2; Exif 3.0, section 4.6).

Values are copied as raw bytes, so invalid values do no harm. Only `Tags.value` interprets values. An entry is ignored
if its type is unknown, or if its value lies outside the file. Only `check_tags` raises errors.
"""

from __future__ import annotations

import math
import re
import struct
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import IO, Literal

from pixtools.errors import CorruptImage

EXIF, GPS = 0x8769, 0x8825
"""Tags of the main directory that hold the offsets of the Exif and the GPS directory."""

INTEROP = 0xA005
"""Tag of the Exif directory that holds the offset of the interoperability directory, which declares a colour space."""

MAKER_NOTE = 0x927C
"""Tag of the Exif directory: data in the format of the camera's maker."""

BYTE_ORDERS: dict[bytes, Literal["<", ">"]] = {b"II*\0": "<", b"MM\0*": ">"}
"""The byte order, as a character for `struct`, for the first four bytes of a TIFF structure."""

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 129: 1}
"""The number of bytes of one value, for each type of a tag. Type 129 is UTF-8 (Exif 3.0)."""

_NUMBERS = {1: "B", 3: "H", 4: "I", 5: "I", 6: "b", 8: "h", 9: "i", 10: "i", 11: "f", 12: "d", 13: "I"}

_HEADER = re.compile(rb"II\*\0|MM\0\*")
_MAX_BLOCKS = 16
_CHILDREN = frozenset({EXIF, GPS, INTEROP})

_BYTES, _FRACTIONS = (1, 2, 6, 7), (5, 10)
"""The types of values that Pillow reads as one piece, and the types of values that are fractions."""

_PIECE_TAGS = frozenset({0x0111, 0x0117, 0x0144, 0x0145})  # offsets and sizes of strips and tiles
_ENTRIES, _FRACTION_VALUES, _NUMBER_VALUES = "entries", "fractions", "numbers"
_PIECES = "offsets and sizes of strips and tiles"
# Real files stay below these limits. A picture with 16,384 rows may have one strip for each row and each of four
# channels, and each strip has an offset and a size. The palette of 16-bit pixels has 196,608 numbers.
_MOST = {_ENTRIES: 1_000, _FRACTION_VALUES: 1_000, _PIECES: 140_000, _NUMBER_VALUES: 250_000}

_LONG = 4
_INLINE = 4  # values up to this many bytes are stored in their entry


@dataclass(frozen=True, slots=True)
class TagEntry:
    """One entry of a directory, with its value as raw bytes."""

    type: int
    count: int
    value: bytes | memoryview  # in the byte order of its TIFF structure
    offset: int = 0  # position of the value in this structure


Directory = dict[int, TagEntry]
"""The entries of a directory. The keys are tags."""

Value = str | bytes | tuple[float, ...]
"""An interpreted value: text, bytes or numbers."""


@dataclass(frozen=True)
class Tags:
    """The directories of one picture.

    The directories of the thumbnail and of the interoperability tags, which declare a colour space, are left out.
    """

    order: Literal["<", ">"]
    main: Directory
    exif: Directory = field(default_factory=dict)
    gps: Directory = field(default_factory=dict)

    def value(self, entry: TagEntry) -> Value:
        """Interpret the value of an entry as text, bytes or numbers. A fraction with denominator 0 becomes NaN."""
        raw = bytes(entry.value)
        match entry.type:
            case 2 | 129:
                return text(raw)
            case 7:
                return raw
            case 5 | 10:
                integers = struct.unpack(f"{self.order}{2 * entry.count}{_NUMBERS[entry.type]}", raw)
                fractions = zip(integers[::2], integers[1::2], strict=True)
                return tuple(
                    numerator / denominator if denominator else math.nan for numerator, denominator in fractions
                )
            case number_type:
                return struct.unpack(f"{self.order}{entry.count}{_NUMBERS[number_type]}", raw)

    def number(self, value: int) -> TagEntry:
        """Return an entry of one unsigned 32-bit number."""
        return TagEntry(_LONG, 1, struct.pack(self.order + "I", value))

    def to_bytes(self) -> bytes:
        """Return the tags as a TIFF structure. Return no bytes if there are no tags.

        A maker's note keeps its offset, because most notes contain offsets that count from the start of the structure.
        """
        body = bytearray(8)
        note = self.exif.get(MAKER_NOTE)
        if note is not None:
            body += bytes(max(0, note.offset - len(body)))
            body += note.value
            body += bytes(len(body) % 2)
        children = {tag: directory for tag, directory in ((EXIF, self.exif), (GPS, self.gps)) if directory}
        if not self.main and not children:
            return b""
        start = self._append(body, self.main, children, note)
        struct.pack_into(self.order + "2sHI", body, 0, b"II" if self.order == "<" else b"MM", 42, start)
        return bytes(body)

    def _append(
        self, body: bytearray, directory: Directory, children: dict[int, Directory], note: TagEntry | None
    ) -> int:
        """Append a directory and its children. Return the offset of the directory.

        The key of each child is the tag that points to it.
        """
        start = len(body)
        entries = directory | {tag: self.number(0) for tag in children}
        body += bytes(2 + 12 * len(entries) + 4)  # the last four bytes stay 0: no directory follows
        struct.pack_into(self.order + "H", body, start, len(entries))
        for place, (tag, entry) in enumerate(sorted(entries.items())):
            if tag in children:
                value = struct.pack(self.order + "I", self._append(body, children[tag], {}, note))
            elif len(entry.value) <= _INLINE:
                value = bytes(entry.value)
            elif entry is note:
                value = struct.pack(self.order + "I", max(8, note.offset))
            else:
                value = struct.pack(self.order + "I", len(body))
                body += entry.value
                body += bytes(len(body) % 2)
            struct.pack_into(self.order + "HHI4s", body, start + 2 + 12 * place, tag, entry.type, entry.count, value)
        return start


def parse(data: bytes) -> Tags | None:
    """Return the tags of a TIFF structure, or None if `data` is not a TIFF structure. No value is copied."""
    order = BYTE_ORDERS.get(data[:4])
    if order is None or len(data) < 8:  # noqa: PLR2004
        return None
    whole = memoryview(data)
    main = _directory(whole, order, struct.unpack_from(order + "I", data, 4)[0])
    exif = _child(whole, order, main, EXIF)
    gps = _child(whole, order, main, GPS)
    return Tags(order, without(main, (EXIF, GPS)), without(exif, (INTEROP,)), gps)


def check_tags(file: IO[bytes]) -> None:
    """Raise CorruptImage if the tags of a TIFF have more entries or values than any picture needs.

    Entries and values take time and memory, because Pillow creates objects for them. This function counts every entry
    of the first picture, including invalid ones, because Pillow may read entries that `parse` ignores.
    """
    _check_structure(file, 0)


def check_embedded_tags(file: IO[bytes]) -> None:
    """Do the same as `check_tags` for the EXIF of a file in a format that may hold EXIF at any position, such as AVIF.

    Pillow copies the values of this EXIF when it turns the orientation of the container into an EXIF tag.
    """
    for number, match in enumerate(_HEADER.finditer(file.read())):
        if number == _MAX_BLOCKS:
            raise _excess(_MAX_BLOCKS, "blocks of EXIF")
        _check_structure(file, match.start())


def _check_structure(file: IO[bytes], start: int) -> None:
    """Check the TIFF structure that begins at position `start`."""
    file.seek(start)
    head = file.read(8)
    order = BYTE_ORDERS.get(head[:4])
    if order is None or len(head) < 8:  # noqa: PLR2004
        return
    counts: Counter[str] = Counter()
    offsets, seen = [struct.unpack_from(order + "I", head, 4)[0]], set[int]()
    while offsets:
        offset = offsets.pop()
        if offset in seen:
            continue
        seen.add(offset)
        file.seek(start + offset)
        offsets += _count_directory(file, order, counts)
        for what, limit in _MOST.items():
            if counts[what] > limit:
                raise _excess(limit, what)


def _count_directory(file: IO[bytes], order: str, counts: Counter[str]) -> list[int]:
    """Count the entries and values of the directory at the position of `file`. Return the offsets of its children."""
    head = file.read(2)
    if len(head) < 2:  # noqa: PLR2004
        return []
    (entries,) = struct.unpack(order + "H", head)
    counts[_ENTRIES] += entries
    if counts[_ENTRIES] > _MOST[_ENTRIES]:
        return []
    children = []
    table = file.read(12 * entries)
    for tag, value_type, count, value in struct.iter_unpack(order + "HHII", table[: len(table) // 12 * 12]):
        if tag in _CHILDREN:
            children.append(value)
        if value_type in _FRACTIONS:
            counts[_FRACTION_VALUES] += count
        elif value_type not in _BYTES:
            counts[_PIECES if tag in _PIECE_TAGS else _NUMBER_VALUES] += count
    return children


def _excess(limit: int, what: str) -> CorruptImage:
    return CorruptImage(
        f"The tags of the file have more than {limit:,} {what}, which no picture needs. "
        "Open the file in an image editor and export it again."
    )


def without(directory: Directory, tags: Iterable[int]) -> Directory:
    """Return a directory without these tags."""
    return {tag: entry for tag, entry in directory.items() if tag not in tags}


def only(directory: Directory, tags: Iterable[int]) -> Directory:
    """Return a directory with only these tags."""
    return {tag: entry for tag, entry in directory.items() if tag in tags}


def text(raw: bytes) -> str:
    """Decode text up to the first NUL. The standard allows only ASCII, but files contain UTF-8 and Latin-1 too."""
    raw = raw.split(b"\0", 1)[0]
    try:
        return raw.decode().strip()
    except UnicodeDecodeError:
        return raw.decode("latin-1").strip()


def _child(data: memoryview, order: str, directory: Directory, pointer: int) -> Directory:
    entry = directory.get(pointer)
    if entry is None or len(entry.value) != _INLINE:
        return {}
    return _directory(data, order, struct.unpack(order + "I", entry.value)[0])


def _directory(data: memoryview, order: str, offset: int) -> Directory:
    """Read the directory at `offset`. Ignore invalid entries, and entries that repeat a tag."""
    directory: Directory = {}
    if offset > len(data) - 2:
        return directory
    (entries,) = struct.unpack_from(order + "H", data, offset)
    # All values together must not be larger than the data. Otherwise a thousand entries could share one megabyte, and
    # `to_bytes` would write this megabyte a thousand times.
    bytes_left = len(data)
    for start in range(offset + 2, min(offset + 2 + 12 * entries, len(data) - 11), 12):
        tag, value_type, count, value = struct.unpack_from(order + "HHI4s", data, start)
        size = _SIZES.get(value_type, 0) * count
        value_offset = start + 8 if size <= _INLINE else struct.unpack(order + "I", value)[0]
        if 0 < size <= min(bytes_left, len(data) - value_offset) and tag not in directory:
            directory[tag] = TagEntry(value_type, count, data[value_offset : value_offset + size], value_offset)
            bytes_left -= size
    return directory
