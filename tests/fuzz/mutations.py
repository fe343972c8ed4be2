"""Damage files at random. The format, the random seed and the number of a case determine the damage.

Some mutations move whole blocks, such as the chunks of a PNG. Most PNGs also get new valid checksums. Without this,
the first check of a decoder would refuse nearly every case.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from random import Random

Mutation = Callable[[bytearray, Random], None]

# Numbers that often reveal an error: off by one, a wrong sign, a huge allocation or an overflow of a product.
_EDGES = (0, 1, 2, 3, 7, 8, 15, 16, 31, 32, 63, 64, 127, 128, 255, 256, 1024, 4096, 32767, 32768, 65535, 65536)
_SIGNATURES = {"JPEG": 3, "PNG": 16, "WEBP": 12, "AVIF": 16, "GIF": 6, "TIFF": 4, "BMP": 2, "HEIF": 16}
_LARGE = (2**24 - 1, 2**27, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1)


def mutated(format_name: str, seeds: list[bytes], random: Random) -> bytes:
    """Choose one of the valid files `seeds`, and return it with one to six mutations."""
    seed = random.choice(seeds)
    data = bytearray(seed)
    if random.random() < 0.1:
        data = _spliced(data, random.choice(seeds), random)
    for _ in range(random.choice((1, 1, 1, 2, 3, 6))):
        if random.random() < 0.3:
            data = _with_blocks_moved(format_name, data, random)
        else:
            random.choice(_MUTATIONS)(data, random)
        if len(data) < 16:
            break
    if random.random() < 0.9:  # otherwise half of all cases would be refused because of their signature
        data[: _SIGNATURES[format_name]] = seed[: _SIGNATURES[format_name]]
    if format_name == "PNG" and random.random() < 0.8:
        data = with_valid_checksums(data)
    return bytes(data)


def _place(data: bytearray, random: Random) -> int:
    """Return an offset, mostly near the start of the file, because headers determine how the rest is read."""
    last = len(data) - 1
    return random.randint(0, min(last, 300) if random.random() < 0.6 else last)


def _flip_bits(data: bytearray, random: Random) -> None:
    for _ in range(random.choice((1, 1, 2, 8))):
        data[_place(data, random)] ^= 1 << random.randrange(8)


def _set_bytes(data: bytearray, random: Random) -> None:
    at = _place(data, random)
    for offset in range(at, min(len(data), at + random.choice((1, 2, 4, 16)))):
        data[offset] = random.choice((0, 1, 0x7F, 0x80, 0xFF, random.randrange(256)))


def _set_number(data: bytearray, random: Random) -> None:
    """Overwrite 2 or 4 bytes with a number, in either byte order. The bytes may be a size, an offset or a count."""
    form = random.choice(("<H", ">H", "<I", ">I", ">I"))
    size = struct.calcsize(form)
    number = random.choice(_EDGES + _LARGE) & (2 ** (8 * size) - 1)
    at = min(_place(data, random), len(data) - size)
    data[at : at + size] = struct.pack(form, number)


def _change_slightly(data: bytearray, random: Random) -> None:
    at = _place(data, random)
    data[at] = (data[at] + random.choice((-2, -1, 1, 2))) % 256


def _cut(data: bytearray, random: Random) -> None:
    del data[random.randint(16, len(data)) :]


def _remove(data: bytearray, random: Random) -> None:
    at = _place(data, random)
    del data[at : at + random.choice((1, 2, 4, 20, 200))]


def _repeat(data: bytearray, random: Random) -> None:
    at = _place(data, random)
    piece = data[at : at + random.choice((1, 4, 12, 60, 400))]
    data[at:at] = piece * random.choice((1, 1, 2, 20))


def _insert(data: bytearray, random: Random) -> None:
    at = _place(data, random)
    data[at:at] = random.randbytes(random.choice((1, 2, 4, 30)))


_MUTATIONS: tuple[Mutation, ...] = (
    _flip_bits,
    _set_bytes,
    _set_number,
    _set_number,
    _change_slightly,
    _cut,
    _remove,
    _repeat,
    _insert,
)


def _spliced(one: bytearray, other: bytes, random: Random) -> bytearray:
    """Return the beginning of `one`, followed by the end of `other`."""
    return one[: random.randint(16, len(one))] + other[random.randint(0, len(other)) :]


def _with_blocks_moved(format_name: str, data: bytearray, random: Random) -> bytearray:
    """Insert a copy of a block, remove a block, exchange two blocks, or insert 50 copies. Return the new file."""
    spans = block_spans(format_name, data)
    if len(spans) < 2:
        return data
    blocks = [data[0 : spans[0][0]], *(data[start:end] for start, end in spans), data[spans[-1][1] :]]
    one, other = random.randrange(1, len(blocks) - 1), random.randrange(1, len(blocks) - 1)
    match random.randrange(4):
        case 0:
            blocks.insert(one, blocks[other])
        case 1:
            del blocks[one]
        case 2:
            blocks[one], blocks[other] = blocks[other], blocks[one]
        case _:
            blocks[one:one] = [blocks[other]] * 50
    return bytearray(b"".join(blocks))


Spans = list[tuple[int, int]]
"""The start and the end of each block, in bytes."""


def block_spans(format_name: str, data: bytearray) -> Spans:
    """Return the blocks of a file, such as the chunks of a PNG. Some formats have none."""
    find = _BLOCKS.get(format_name)
    return find(data) if find else []


def _png_chunks(data: bytearray) -> Spans:
    spans, at = [], 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        if at + 12 + length > len(data):
            break
        spans.append((at, at + 12 + length))
        at += 12 + length
    return spans


def _jpeg_segments(data: bytearray) -> Spans:
    spans, at = [], 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        (length,) = struct.unpack_from(">H", data, at + 2)
        spans.append((at, min(at + 2 + length, len(data))))
        if data[at + 1] == 0xDA:
            break
        at += 2 + length
    return spans


def _riff_chunks(data: bytearray) -> Spans:
    spans, at = [], 12
    while at + 8 <= len(data):
        (length,) = struct.unpack_from("<I", data, at + 4)
        end = at + 8 + length + length % 2
        if end > len(data):
            break
        spans.append((at, end))
        at = end
    return spans


def _boxes(data: bytearray) -> Spans:
    """Return the boxes of an ISO base media file. A container box is replaced by the boxes inside it."""
    spans, ranges = [], [(0, len(data))]
    while ranges:
        at, end = ranges.pop()
        while at + 8 <= end:
            length, name = struct.unpack_from(">I4s", data, at)
            if not 8 <= length <= end - at:
                break
            headers = {b"meta": 12, b"iprp": 8, b"ipco": 8, b"moov": 8, b"trak": 8, b"mdia": 8, b"minf": 8, b"stbl": 8}
            if name in headers:
                ranges.append((at + headers[name], at + length))
            else:
                spans.append((at, at + length))
            at += length
    return sorted(spans)


def _tiff_entries(data: bytearray) -> Spans:
    if len(data) < 8 or data[:2] != b"II":
        return []
    (at,) = struct.unpack_from("<I", data, 4)
    if at + 2 > len(data):
        return []
    (count,) = struct.unpack_from("<H", data, at)
    return [
        (at + 2 + 12 * number, at + 14 + 12 * number) for number in range(count) if at + 14 + 12 * number < len(data)
    ]


_BLOCKS: dict[str, Callable[[bytearray], Spans]] = {
    "PNG": _png_chunks, "JPEG": _jpeg_segments, "WEBP": _riff_chunks, "AVIF": _boxes, "HEIF": _boxes,
    "TIFF": _tiff_entries,
}  # fmt: skip


def with_valid_checksums(data: bytearray) -> bytearray:
    for start, end in _png_chunks(data):
        struct.pack_into(">I", data, end - 4, zlib.crc32(data[start + 4 : end - 4]))
    return data
