"""Makes image files whose headers are costly to read: many blocks, many values, deep or huge metadata.

The format, the random seed and the number of a case determine the file.
"""

from __future__ import annotations

import struct
import zlib
from random import Random

from mutations import block_spans, mutated, with_valid_checksums

LARGEST = 25_000_000
"""The largest upload of the service, in bytes."""

_TYPES = (1, 2, 3, 4, 5, 7, 9, 10, 12, 13, 129)
_TAGS = (0x0100, 0x0102, 0x0103, 0x0111, 0x0112, 0x0117, 0x011A, 0x0140, 0x0144, 0x0145, 0x014A, 0x8769, 0x8825, 0x83BB)


def hostile_file(format_name: str, seeds: list[bytes], random: Random) -> bytes:
    """Return a file of up to 25 MB that begins like a valid file of the format."""
    size = min(LARGEST, round(10 ** random.uniform(3, 7.5)))
    seed = random.choice(seeds)
    match random.randrange(5):
        case 0 if format_name == "TIFF":
            data = _directory(random, size)
        case 0 | 1:
            data = _with_exif(format_name, seed, _directory(random, size))
        case 2:
            data = mutated(format_name, seeds, random)
            data = _with_copies(format_name, data, random, size)
        case _:
            data = _with_copies(format_name, seed, random, size)
    return data[:LARGEST]


def _with_copies(format_name: str, data: bytes, random: Random, size: int) -> bytes:
    """Repeat one block, or a few bytes, until the file has about `size` bytes."""
    spans = block_spans(format_name, bytearray(data))
    if spans and random.random() < 0.8:
        start, end = random.choice(spans)
    else:
        start = random.randrange(min(len(data), 300))
        end = min(len(data), start + random.choice((1, 2, 4, 12, 100)))
    piece = data[start:end] or b"\0"
    if format_name == "PNG" and random.random() < 0.5:
        piece = _png_chunk(random)
    copies = max(1, (size - len(data)) // len(piece))
    grown = data[:start] + piece * copies + data[start:]
    return bytes(with_valid_checksums(bytearray(grown))) if format_name == "PNG" and copies < 20_000 else grown


def _png_chunk(random: Random) -> bytes:
    name = random.choice((b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"tIME", b"sRGB", b"fcTL", b"acTL", b"PLTE"))
    text = zlib.compress(bytes(random.choice((10, 1_000, 1_000_000, 5_000_000))))
    body = random.choice((b"", b"a\0\0" + text, b"a\0\1\0\0\0" + text, b"\0" * 26, b"\0\0\0\2\0\0\0\0"))
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _directory(random: Random, size: int) -> bytes:
    """Return a TIFF of about `size` bytes whose tags have many entries or many values."""
    order = random.choice("<>")
    count = random.choice((1, 10, 200, 1_000, 13_000, 65_535))
    values = max(1, size // random.choice((1, 2, 4, 8, 8 * count)))
    entries = [struct.pack(order + "HHII", tag, 3, 1, 16) for tag in (0x0100, 0x0101)] if random.random() < 0.7 else []
    for _ in range(min(count, size // 12)):
        tag = random.choice(_TAGS) if random.random() < 0.5 else random.randrange(65_536)
        number = random.choice((0, 1, 2, values, values, 2**31, 2**32 - 1))
        entries.append(
            struct.pack(order + "HHII", tag, random.choice(_TYPES), number, random.choice((8, 100, size // 2)))
        )
    if random.random() < 0.5:
        entries.sort(key=lambda entry: struct.unpack_from(order + "H", entry))
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, min(65_535, len(entries)))
    return (head + b"".join(entries) + bytes(4)).ljust(size, random.choice((b"\0", b"\1", b"\xff")))


def _with_exif(format_name: str, data: bytes, exif: bytes) -> bytes:
    """Insert a block of EXIF into a file. Formats with a complicated structure get it at a random block instead."""
    match format_name:
        case "JPEG":
            pieces = [exif[at : at + 65_000] for at in range(0, len(exif), 65_000)]
            segments = (b"\xff\xe1" + struct.pack(">H", len(each) + 8) + b"Exif\0\0" + each for each in pieces)
            return data[:2] + b"".join(segments) + data[2:]
        case "PNG":
            chunk = struct.pack(">I", len(exif)) + b"eXIf" + exif + struct.pack(">I", zlib.crc32(b"eXIf" + exif))
            return data[:33] + chunk + data[33:]
        case "WEBP":
            body = data[12:] + b"EXIF" + struct.pack("<I", len(exif)) + exif + bytes(len(exif) % 2)
            return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body
        case "AVIF" | "HEIF":
            # The file of a seed with EXIF holds the tags in its last box. Replace what follows the TIFF header.
            at = max(data.rfind(b"II*\0"), data.rfind(b"MM\0*"))
            return data[:at] + exif if at > 0 else data + exif
        case "TIFF":
            return exif
        case _:
            return data + exif
