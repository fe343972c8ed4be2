"""PixTools refuses a file with too many segments, chunks or blocks, before Pillow spends much time on this file."""

from __future__ import annotations

import io
import re
import struct
import time
import zlib

import pytest
from animations import Frame, apng, filled
from images import LIMITS, photo, saved
from PIL import Image

from pixtools.errors import CorruptImage, ImageTooLarge
from pixtools.imaging import gif_frames
from pixtools.imaging.decoding import decode
from pixtools.imaging.header import inspect
from pixtools.imaging.png_chunks import chunk

MAX_CPU_S = 3  # CPU time for a file of 25 MB; Pillow would need tens of seconds

JPEG, PNG, WEBP = (saved(photo(), name) for name in ("JPEG", "PNG", "WEBP"))
GIF = b"GIF89a" + struct.pack("<HHBBB", 4, 4, 0x80, 0, 0) + bytes(6)
FRAME = b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\0"
PALETTE = bytes(range(12))
# A text or profile that decompresses to 900,000 bytes and then has a wrong checksum.
HALF_TEXT = b"a\0\0" + zlib.compress(bytes(900_000))[:-4] + b"\xff" * 4


def inspected(data: bytes):
    return inspect(io.BytesIO(data), LIMITS)


def segment(marker: int, content: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", 2 + len(content)) + content


def jpeg(*segments: bytes) -> bytes:
    """Return a JPEG with these segments before its pixels."""
    return JPEG[:2] + segment(0xE5, b"") + b"".join(segments) + JPEG[2:]


def with_chunks(*further: bytes) -> bytes:
    """Return a PNG with these chunks before its pixels."""
    return PNG[:33] + b"".join(further) + PNG[33:]


def webp(*chunks: bytes) -> bytes:
    """Return a WebP with further chunks, given as types and contents in turn."""
    body = WEBP[12:]
    for name, content in zip(chunks[::2], chunks[1::2], strict=True):
        body += name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def tiff(fractions: int, *more: tuple[int, int, int, int]) -> bytes:
    """Return the beginning of a TIFF whose orientation tag holds this number of fractions. `more` are further tags."""
    tags = [(256, 4, 1, 96), (257, 4, 1, 64), (258, 3, 1, 8), (262, 3, 1, 1), (274, 5, fractions, 100), (277, 3, 1, 1)]
    tags += more
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return (b"II*\0\x08\0\0\0" + directory).ljust(100, b"\0") + b"\1\0\0\0" * 2 * fractions


@pytest.mark.parametrize(
    ("data", "what"),
    [
        pytest.param(lambda: jpeg(segment(0xE1, b"Exif\0\0a") * 1_001), "1,000 segments", id="EXIF in small segments"),
        pytest.param(lambda: jpeg(segment(0xE1, b"Exif\0\0" + bytes(60_000)) * 17), "bytes of EXIF", id="EXIF"),
        pytest.param(lambda: jpeg(segment(0xE2, b"ICC_PROFILE\0\1\1") * 1_001), "1,000 segments", id="profiles"),
        pytest.param(lambda: jpeg(segment(0xFE, b"") * 1_001), "1,000 segments", id="comments"),
        pytest.param(lambda: jpeg(segment(0xDB, (b"\0" + bytes(64)) * 1_000) * 2), "of tables", id="tables"),
        pytest.param(
            lambda: jpeg(segment(0xC0, b"\x08\0\1\0\1\3" + bytes(60_000)) * 2), "of tables", id="frames of components"
        ),
        pytest.param(
            lambda: jpeg(segment(0xED, b"Photoshop 3.0\0" + (b"8BIM\4\4" + bytes(6)) * 5_000) * 70),
            "of Photoshop",
            id="resources",
        ),
        pytest.param(lambda: jpeg(bytes(70_000)), "between segments", id="zeros"),
        pytest.param(lambda: jpeg(b"\xff" * 70_000), "between segments", id="padding"),
        pytest.param(lambda: jpeg(b"\xff\0" * 70_000), "between segments", id="escaped bytes"),
        pytest.param(lambda: jpeg(b"\xff\xd0" * 70_000), "between segments", id="restarts"),
        pytest.param(lambda: with_chunks(chunk(b"abCd", b"") * 20_001), "20,000 chunks", id="chunks"),
        pytest.param(
            lambda: PNG[:-12] + chunk(b"IDAT", b"") * 20_001 + PNG[-12:], "20,000 chunks", id="chunks of pixels"
        ),
        pytest.param(lambda: with_chunks(chunk(b"iCCP", HALF_TEXT) * 257), "256 texts", id="profiles that grow"),
        pytest.param(lambda: with_chunks(chunk(b"zTXt", HALF_TEXT) * 257), "256 texts", id="texts that grow"),
        pytest.param(lambda: GIF + b"\x21\xfe\0" * 20_001 + FRAME + b";", "20,000 extensions", id="extensions"),
        pytest.param(lambda: tiff(1_001), "1,000 fractions", id="fractions"),
        pytest.param(
            lambda: tiff(1, *[(273, 4, 150_000, 100)]), "140,000 offsets and sizes of strips", id="offsets of strips"
        ),
        pytest.param(
            lambda: tiff(1, *[(30_000, 1, 4, 0)] * 13_000, (40_000, 5, 2_000, 100)), "1,000 entries", id="inline tags"
        ),
        pytest.param(lambda: tiff(1, (0x8769, 4, 1, 8), (40_000, 4, 260_000, 100)), "250,000 numbers", id="numbers"),
        pytest.param(
            lambda: saved(photo(), "AVIF") + tiff(2_000),
            "1,000 fractions",
            id="EXIF of an AVIF",
        ),
        pytest.param(
            lambda: saved(photo(), "AVIF") + b"II*\0\xff\xff\xff\xff" * 17, "16 blocks of EXIF", id="blocks of EXIF"
        ),
        pytest.param(lambda: with_chunks(chunk(b"eXIf", bytes(8_000_001))), "8,000,000 bytes", id="a large chunk"),
        pytest.param(
            lambda: JPEG[: JPEG.index(b"\xff\xda")] + b"\xc4" * 70_000 + JPEG[JPEG.index(b"\xff\xda") :],
            "between segments",
            id="junk before the pixels",
        ),
        pytest.param(lambda: webp(b"EXIF", bytes(8_000_001)), "8,000,000 bytes of EXIF", id="EXIF of a WebP"),
        pytest.param(lambda: webp(*[b"abcd", b""] * 10_001), "10,000 chunks", id="chunks of a WebP"),
        pytest.param(
            lambda: GIF + b"\x21\xfe" + b"\1a" * 1_000_001 + b"\0" + FRAME + b";", "1,000,000 blocks", id="blocks"
        ),
    ],
)
def test_a_file_that_exceeds_a_limit_of_its_format_is_corrupt(data, what):
    with pytest.raises(CorruptImage, match=rf"more than .*{re.escape(what)}.* export it again"):
        inspected(data())


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(lambda: jpeg(segment(0xE1, b"Exif\0\0a") * 300_000), id="EXIF in small segments"),
        pytest.param(lambda: jpeg(b"\xff" * 25_000_000), id="padding"),
        pytest.param(lambda: with_chunks(chunk(b"abCd", b"") * 2_000_000), id="chunks"),
        pytest.param(lambda: with_chunks(chunk(b"zTXt", HALF_TEXT) * 25_000), id="texts that grow"),
        pytest.param(lambda: GIF + b"\x21\xfe\0" * 8_300_000 + FRAME + b";", id="extensions"),
        pytest.param(lambda: GIF + b"\x21\xfe" + b"\1a" * 12_500_000 + b"\0" + FRAME + b";", id="blocks"),
        pytest.param(lambda: GIF + FRAME * 2_000_000, id="frames"),
        pytest.param(lambda: tiff(3_000_000), id="fractions"),
    ],
)
def test_25_megabytes_of_small_pieces_are_refused_within_3_seconds(data):
    whole = data()
    started = time.process_time()
    with pytest.raises((CorruptImage, ImageTooLarge)):
        inspected(whole)
    assert time.process_time() - started < MAX_CPU_S


def test_the_metadata_of_large_photos_is_accepted():
    segments = [segment(0xE1, b"Exif\0\0" + bytes(65_000)) * 10]  # a maker's note in several segments
    segments += [segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + bytes(65_000)) * 100]
    segments += [segment(0xE2, b"ICC_PROFILE\0" + bytes([number, 255]) + bytes(65_000)) for number in range(1, 256)]
    segments += [segment(0xED, b"Photoshop 3.0\0" + bytes(65_000)) * 20, b"\xff" * 4_000, bytes(4_000)]

    assert inspected(jpeg(*segments)).width == 96
    assert inspected(with_chunks(chunk(b"tEXt", b"a\0b") * 5_000, chunk(b"zTXt", HALF_TEXT) * 40)).width == 96
    assert inspected(GIF + b"\x21\xfe" + (b"\xff" + bytes(255)) * 100_000 + b"\0" + FRAME + b";").frames == 1


def test_parsing_a_gif_stops_after_the_given_number_of_frames():
    assert len(gif_frames.parse(GIF + FRAME * 10_000, max_frames=101).frames) == 101


def test_the_last_palette_before_the_pixels_is_used_for_every_frame():
    palettes = [(b"PLTE", bytes(12))] * 15_000 + [(b"PLTE", PALETTE)]
    layers = [Frame(filled(index)[..., None]) for index in (1, 2)]
    data = apng(layers, colour=3, shared=tuple(palettes))
    late = data.index(b"IDAT") - 4
    after = late + 12 + int.from_bytes(data[late : late + 4], "big")
    data = data[:after] + chunk(b"PLTE", bytes(12)) + data[after:]

    started = time.process_time()
    frames = decode(data).frames

    assert [frame.convert("RGB").getpixel((0, 0)) for frame in frames] == [(3, 4, 5), (6, 7, 8)]
    assert time.process_time() - started < MAX_CPU_S


def test_an_animated_webp_without_frames_is_corrupt():
    head = b"VP8X" + struct.pack("<I", 10) + b"\x02" + bytes(9)
    with pytest.raises(CorruptImage, match="no pixels"):
        inspected(b"RIFF" + struct.pack("<I", 4 + len(head)) + b"WEBP" + head)


def test_tags_of_a_real_camera_are_accepted():
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = "a comment"
    exif[0x011A] = 72.0
    exif[0x0112] = 6

    assert inspected(saved(photo(96, 64), "AVIF", exif=exif)).width == 64
