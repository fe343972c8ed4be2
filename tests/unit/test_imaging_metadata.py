"""What a file says beside its pixels: found in every container, and of it no more goes on than was asked for."""

from __future__ import annotations

import io
import os
import struct
import time
from pathlib import Path

import pytest
from exiftool import needs_exiftool, tags, tells_who_or_where
from hypothesis import given
from hypothesis import strategies as st
from images import XMP, distance, exif, iptc, opened, photo, private_exif, saved, telling
from PIL import Image, PngImagePlugin

from pixtools.errors import CorruptImage, UnsupportedType
from pixtools.imaging import metadata_blocks, tiff_tags
from pixtools.imaging.decoding import decode
from pixtools.imaging.picture import Notes, Picture
from pixtools.operations import OPERATIONS
from pixtools.operations.base.kinds import Resizing

SOURCES = ("JPEG", "PNG", "PNG behind", "WEBP", "AVIF", "TIFF", "HEIF")
ENCODERS = ("jpg", "png", "webp", "avif")
STRIPS = ("gps", "all", "none")
SIZE = (48, 32)


def encoded(source: bytes, name: str, strip: str | None = None) -> bytes:
    operation = OPERATIONS[name]
    given = {} if strip is None else {"strip": strip}
    return operation.encode(decode(source), operation.params(resize=Resizing(width=48), **given), len(source)).data


@pytest.fixture(scope="module")
def outputs() -> dict[tuple[str, str, str], bytes]:
    """Every kind of source in every format by every way to strip it."""
    return {
        (source, name, strip): encoded(telling(source), name, strip)
        for source in SOURCES
        for name in ENCODERS
        for strip in STRIPS
    }


@pytest.fixture(scope="module")
def seen(outputs, tmp_path_factory) -> dict[tuple[str, str, str], dict]:
    """What exiftool finds in each of the outputs."""
    folder = tmp_path_factory.mktemp("outputs")
    names = {key: f"{'-'.join(key).replace(' ', '-')}.{key[1]}" for key in outputs}
    for key, data in outputs.items():
        (folder / names[key]).write_bytes(data)
    found = tags(folder)
    return {key: found[name] for key, name in names.items()}


each_output = pytest.mark.parametrize(("source", "name"), [(source, name) for source in SOURCES for name in ENCODERS])


@pytest.mark.parametrize("source", SOURCES)
def test_every_container_is_read(source):
    picture = decode(telling(source))

    assert distance(picture.image.convert("RGB"), photo()) < 6  # upright
    assert tiff_tags.parse(picture.notes.exif) is not None
    assert b"PixCam" in picture.notes.exif
    assert b"secret city" in picture.notes.xmp
    assert picture.notes.iptc == (iptc() if source in ("JPEG", "TIFF") else b"")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF", "GIF", "BMP"])
def test_a_file_that_says_nothing_has_no_notes(kind):
    assert decode(saved(Image.fromarray(photo()), kind)).notes == Notes()


@each_output
def test_by_default_camera_and_exposure_go_on_and_no_secret_does(outputs, source, name):
    data = outputs[source, name, "gps"]

    assert b"secret" not in data
    assert b"PixMaker" not in data
    found = opened(data).getexif()
    assert (found[0x010F], found[0x0110], found[0x010E]) == ("PixCam", "PixCam One", "A soft scene")
    inner = found.get_ifd(0x8769)
    assert (inner[0x829D], inner[0x9003], inner[0xA434]) == (2.8, "2026:02:03 04:05:06", "PixLens 35mm")
    assert found.get_ifd(0x8825) == {}
    assert not {0x0112, 0xA001} & (found.keys() | inner.keys())
    assert (inner[0xA002], inner[0xA003]) == SIZE


@pytest.mark.parametrize("name", ENCODERS)
def test_the_default_is_gps(outputs, name):
    assert encoded(telling("JPEG"), name) == outputs["JPEG", name, "gps"]


@each_output
def test_all_leaves_nothing(outputs, source, name):
    data = outputs[source, name, "all"]

    assert not [word for word in (b"secret", b"PixCam", b"Exif", b"Photoshop", b"2026:02:03") if word in data]
    assert dict(opened(data).getexif()) == {}


@each_output
def test_none_keeps_all_but_thumbnail_and_orientation(outputs, source, name):
    data = outputs[source, name, "none"]

    for secret in (b"secret city", b"secret-body", b"secret owner", b"secret comment", b"PixMaker\0secret note"):
        assert secret in data
    assert b"secret thumbnail" not in data
    found = opened(data).getexif()
    assert found.get(0x0112, 1) == 1  # Pillow looks into XMP for it, too
    assert found.get_ifd(0x8825)[1] == "S"
    assert found.get_ifd(0x8769)[0xA002] == SIZE[0]
    assert (iptc() in data) == (name == "jpg" and source in ("JPEG", "TIFF"))


def test_the_profile_stays_however_much_is_stripped():
    profile = decode(telling("JPEG"))
    picture = Picture(profile.frames, b"icc" * 50, profile.notes)

    assert OPERATIONS["png"].params(strip="all").prepare(picture).icc == picture.icc


@needs_exiftool
@each_output
def test_exiftool_finds_in_a_default_output_neither_place_nor_person_nor_hidden_pictures(seen, source, name):
    found = seen[source, name, "gps"]

    assert tells_who_or_where(found) == []
    assert not [value for value in found.values() if "secret" in str(value)]
    assert (found["IFD0:Make"], found["ExifIFD:LensModel"]) == ("PixCam", "PixLens 35mm")
    assert (found["ExifIFD:ExifImageWidth"], found["ExifIFD:ExifImageHeight"]) == SIZE
    assert "IFD0:Orientation" not in found
    assert not [name for name in found if name.endswith(":Warning")]


@needs_exiftool
@each_output
def test_exiftool_finds_nothing_at_all_where_all_was_stripped(seen, source, name):
    found = seen[source, name, "all"]

    assert not [name for name in found if name.startswith(("IFD", "ExifIFD", "GPS", "XMP", "IPTC", "Photoshop"))]


@needs_exiftool
@each_output
def test_exiftool_finds_everything_where_nothing_was_stripped(seen, source, name):
    found = seen[source, name, "none"]

    assert tells_who_or_where(found)
    assert found["GPS:GPSLatitude"] == pytest.approx(33.8599722)
    assert (found["ExifIFD:SerialNumber"], found["ExifIFD:OwnerName"]) == ("secret-body", "secret owner")
    assert found["XMP-photoshop:City"] == "secret city"
    assert found.get("XMP-tiff:Orientation", 1) == 1
    assert (found.get("IPTC:City") == "secret city") == (name == "jpg" and source in ("JPEG", "TIFF"))
    assert not [name for name in found if name.startswith("IFD1") or name == "IFD0:Orientation"]
    assert not [name for name in found if name.endswith(":Warning") and "MakerNotes" not in str(found[name])]


@needs_exiftool
@pytest.mark.parametrize("name", ENCODERS)
def test_the_structure_of_a_tiff_goes_on_nowhere(seen, name):
    for strip in ("gps", "none"):
        for tag in ("ImageWidth", "StripOffsets", "Compression", "BitsPerSample", "PhotometricInterpretation"):
            assert f"IFD0:{tag}" not in seen["TIFF", name, strip]


def test_what_a_transform_leaves_follows_the_default():
    picture = OPERATIONS["flip"].run(decode(telling("JPEG")), OPERATIONS["flip"].params())
    png = OPERATIONS["png"]

    data = png.encode(picture, png.params(), 0).data

    assert b"PixCam" in data
    assert b"secret" not in data


def test_notes_travel_between_processes():
    picture = decode(telling("JPEG"))

    assert Picture.shared(*picture.share()).notes == picture.notes


def test_a_makers_note_stands_where_its_own_offsets_expect_it():
    source = tiff_tags.parse(private_exif().removeprefix(b"Exif\0\0"))

    note = tiff_tags.parse(metadata_blocks.kept(Notes(exif=source.to_bytes()), "none", SIZE).exif).exif[
        tiff_tags.MAKER_NOTE
    ]

    assert note.at == source.exif[tiff_tags.MAKER_NOTE].at
    assert bytes(note.value) == bytes(source.exif[tiff_tags.MAKER_NOTE].value)


def test_nonsense_in_a_value_goes_on_as_it_is():
    wild = Image.Exif()
    wild[0x010F] = "\0\xff\x01"
    inner = wild.get_ifd(0x8769)
    inner[0x829A], inner[0x9003], inner[0x920A] = (0, 0), "yesterday", "long"
    before = tiff_tags.parse(wild.tobytes()[6:])

    after = tiff_tags.parse(metadata_blocks.kept(Notes(exif=wild.tobytes()[6:]), "gps", SIZE).exif)

    assert {tag: bytes(entry.value) for tag, entry in after.exif.items()} == {
        tag: bytes(entry.value) for tag, entry in before.exif.items()
    }


WHOLE = private_exif().removeprefix(b"Exif\0\0")


@given(
    damage=st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), max_size=12),
    end=st.integers(0, len(WHOLE)),
    strip=st.sampled_from(STRIPS),
)
def test_broken_exif_never_fails_an_encode(damage, end, strip):
    broken = bytearray(WHOLE)
    for at, value in damage:
        broken[at] = value
    picture = Picture((Image.new("L", (4, 4)),), None, Notes(exif=bytes(broken[:end]), xmp=XMP, iptc=iptc()))

    for name in ("jpg", "png", "webp"):
        operation = OPERATIONS[name]
        data = operation.encode(picture, operation.params(strip=strip), 0).data
        assert opened(data).size == (4, 4)
        if strip != "none":
            assert b"secret city" not in data


def test_what_exceeds_a_jpeg_goes_the_largest_first():
    large = exif()
    large[0x010E], large[0x8298] = "x" * 40_000, "y" * 30_000
    picture = Picture(
        (Image.new("L", (4, 4)),), None, Notes(exif=large.tobytes()[6:], xmp=b"x" * 70_000, iptc=b"y" * 70_000)
    )
    jpg = OPERATIONS["jpg"]

    for strip in ("gps", "none"):
        found = opened(jpg.encode(picture, jpg.params(strip=strip), 0).data)

        assert found.getexif()[0x010F] == "PixCam"
        assert len(found.getexif()[0x8298]) == 30_000
        assert 0x010E not in found.getexif()
        assert not {"xmp", "photoshop"} & found.info.keys()


@pytest.mark.parametrize("strip", ["gps", "none"])
def test_a_thousand_tags_that_share_a_megabyte_cost_little(strip):
    shared = struct.pack("<2sHIH", b"II", 42, 8, 60_000)
    shared += b"".join(struct.pack("<HHII", tag, 7, 200_000, 8) for tag in range(1_000, 61_000))
    started = time.process_time()

    kept = metadata_blocks.kept(Notes(exif=shared), strip, SIZE)

    assert len(kept.exif) <= metadata_blocks.EXIF_BYTES
    assert time.process_time() - started < 2


def test_a_text_chunk_that_is_a_bomb_is_no_xmp():
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", "x" * 50_000_000, zip=True)
    bomb = saved(photo(), "PNG", pnginfo=info)

    assert metadata_blocks.png_blocks(io.BytesIO(bomb))[1] == b""


PHOTOS = os.environ.get("PIXTOOLS_TEST_DATA")
FOLDERS = ("exif", "cameras", "orientation", "avif", "heic")


@needs_exiftool
@pytest.mark.skipif(PHOTOS is None, reason="PIXTOOLS_TEST_DATA names no folder with photos")
def test_default_outputs_of_real_photos_tell_neither_who_nor_where(tmp_path):
    made = 0
    for path in (path for folder in FOLDERS for path in sorted(Path(PHOTOS, "photos", folder).iterdir())):
        try:
            picture = OPERATIONS["resize"].run(decode(path.read_bytes()), Resizing(width=64))
        except (CorruptImage, UnsupportedType):
            continue
        for name in ENCODERS:
            operation = OPERATIONS[name]
            data = operation.encode(picture, operation.params(), 0).data
            (tmp_path / f"{path.parent.name}-{path.name}.{name}").write_bytes(data)
            made += 1
    assert made > 100

    for name, found in tags(tmp_path).items():
        assert tells_who_or_where(found) == [], name
        assert "IFD0:Orientation" not in found, name
