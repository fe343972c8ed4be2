"""The directories of tags that TIFF and EXIF are made of (TIFF 6.0, section 2; Exif 3.0, section 4.6), as raw bytes.

Values are moved as they are, so that nonsense in them harms nobody; only `Tags.value` looks into them. What is of no
known type, or does not lie in the file, is as good as absent; nothing here but `check` raises.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import IO, Literal

from pixtools.errors import CorruptImage

EXIF, GPS = 0x8769, 0x8825
"""Tags of the main directory: where the other two begin."""

INTEROP = 0xA005
"""A tag of the Exif directory: where one begins that says in which colours its file is, and nothing else."""

MAKER_NOTE = 0x927C

BYTE_ORDERS: dict[bytes, Literal["<", ">"]] = {b"II*\0": "<", b"MM\0*": ">"}

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 129: 1}
"""Bytes that one value of each type takes; 129 is the UTF-8 of Exif 3.0."""

_NUMBERS = {1: "B", 3: "H", 4: "I", 5: "I", 6: "b", 8: "h", 9: "i", 10: "i", 11: "f", 12: "d", 13: "I"}

_FRACTIONS, _MOST_FRACTIONS = (5, 10), 1_000

_LONG = 4
_INLINE = 4  # a value of no more bytes stands in its entry


@dataclass(frozen=True, slots=True)
class Entry:
    type: int
    count: int
    value: bytes | memoryview  # in the byte order of its file
    at: int = 0  # where in its file the value began


Directory = dict[int, Entry]
Value = str | bytes | tuple[float, ...]


@dataclass(frozen=True)
class Tags:
    """The directories of one picture; those of its thumbnail and of its colours (R98, R03) are left out."""

    order: Literal["<", ">"]
    main: Directory
    exif: Directory = field(default_factory=dict)
    gps: Directory = field(default_factory=dict)

    def value(self, entry: Entry) -> Value:
        """Return what an entry says: text, bytes, or numbers, of which those that are none (1/0) are NaN."""
        raw = bytes(entry.value)
        match entry.type:
            case 2 | 129:
                return text(raw)
            case 7:
                return raw
            case 5 | 10:
                parts = struct.unpack(f"{self.order}{2 * entry.count}{_NUMBERS[entry.type]}", raw)
                pairs = zip(parts[::2], parts[1::2], strict=True)
                return tuple(over / under if under else math.nan for over, under in pairs)
            case kind:
                return struct.unpack(f"{self.order}{entry.count}{_NUMBERS[kind]}", raw)

    def number(self, value: int) -> Entry:
        return Entry(_LONG, 1, struct.pack(self.order + "I", value))

    def to_bytes(self) -> bytes:
        """Return the tags as a TIFF structure, empty where there are none.

        A maker's note stands where it stood: most refer to their own insides by offsets from the very beginning.
        """
        body = bytearray(8)
        note = self.exif.get(MAKER_NOTE)
        if note is not None:
            body += bytes(max(0, note.at - len(body)))
            body += note.value
            body += bytes(len(body) % 2)
        below = {tag: directory for tag, directory in ((EXIF, self.exif), (GPS, self.gps)) if directory}
        if not self.main and not below:
            return b""
        start = self._put(body, self.main, below, note)
        struct.pack_into(self.order + "2sHI", body, 0, b"II" if self.order == "<" else b"MM", 42, start)
        return bytes(body)

    def _put(self, body: bytearray, directory: Directory, below: dict[int, Directory], note: Entry | None) -> int:
        """Append a directory and those below it, and return where it begins."""
        start = len(body)
        entries = directory | {tag: self.number(0) for tag in below}
        body += bytes(2 + 12 * len(entries) + 4)  # the last four: that no other follows
        struct.pack_into(self.order + "H", body, start, len(entries))
        for place, (tag, entry) in enumerate(sorted(entries.items())):
            if tag in below:
                value = struct.pack(self.order + "I", self._put(body, below[tag], {}, note))
            elif len(entry.value) <= _INLINE:
                value = bytes(entry.value)
            elif entry is note:
                value = struct.pack(self.order + "I", max(8, note.at))
            else:
                value = struct.pack(self.order + "I", len(body))
                body += entry.value
                body += bytes(len(body) % 2)
            struct.pack_into(self.order + "HHI4s", body, start + 2 + 12 * place, tag, entry.type, entry.count, value)
        return start


def parse(data: bytes) -> Tags | None:
    """Return the tags of a TIFF structure, or None for what is none. No value is copied."""
    order = BYTE_ORDERS.get(data[:4])
    if order is None or len(data) < 8:  # noqa: PLR2004
        return None
    whole = memoryview(data)
    main = _directory(whole, order, struct.unpack_from(order + "I", data, 4)[0])
    exif = _below(whole, order, main, EXIF)
    gps = _below(whole, order, main, GPS)
    return Tags(order, without(main, (EXIF, GPS)), without(exif, (INTEROP,)), gps)


def check(file: IO[bytes]) -> None:
    """Raise CorruptImage where a tag of the first picture has more fractions than any needs.

    Pillow makes an object of each as it opens a TIFF. The file is left at its end.
    """
    tags = parse(file.read())
    for tag, entry in tags.main.items() if tags else ():
        if entry.type in _FRACTIONS and entry.count > _MOST_FRACTIONS:
            raise CorruptImage(
                f"Its tag {tag} holds more than {_MOST_FRACTIONS:,} fractions, which no picture needs. "
                "Open it in an editor and export it anew."
            )


def without(directory: Directory, tags: Iterable[int]) -> Directory:
    return {tag: entry for tag, entry in directory.items() if tag not in tags}


def only(directory: Directory, tags: Iterable[int]) -> Directory:
    return {tag: entry for tag, entry in directory.items() if tag in tags}


def text(raw: bytes) -> str:
    """Return text up to its NUL: ASCII by the standard, in fact UTF-8 or what was common where it was written."""
    raw = raw.split(b"\0", 1)[0]
    try:
        return raw.decode().strip()
    except UnicodeDecodeError:
        return raw.decode("latin-1").strip()


def _below(data: memoryview, order: str, directory: Directory, pointer: int) -> Directory:
    entry = directory.get(pointer)
    if entry is None or len(entry.value) != _INLINE:
        return {}
    return _directory(data, order, struct.unpack(order + "I", entry.value)[0])


def _directory(data: memoryview, order: str, at: int) -> Directory:
    found: Directory = {}
    if at > len(data) - 2:
        return found
    (entries,) = struct.unpack_from(order + "H", data, at)
    room = len(data)  # a thousand entries that share one megabyte are a bomb
    for start in range(at + 2, min(at + 2 + 12 * entries, len(data) - 11), 12):
        tag, kind, count, value = struct.unpack_from(order + "HHI4s", data, start)
        size = _SIZES.get(kind, 0) * count
        where = start + 8 if size <= _INLINE else struct.unpack(order + "I", value)[0]
        if 0 < size <= min(room, len(data) - where) and tag not in found:
            found[tag] = Entry(kind, count, data[where : where + size], where)
            room -= size
    return found
