"""Metadata is read from every format, and results keep only what `strip` allows."""

from __future__ import annotations

import io
import os
import struct
import time
from pathlib import Path

import pytest
from exiftool import identifying_tags, needs_exiftool, tags
from hypothesis import given
from hypothesis import strategies as st
from images import XMP, distance, exif, iptc, opened, photo, photo_with_metadata, private_exif, saved
from PIL import Image, PngImagePlugin

from pixtools.errors import CorruptImage, UnsupportedType
from pixtools.imaging import metadata_blocks, tiff_tags
from pixtools.imaging.decoding import decode
from pixtools.imaging.picture import Metadata, Picture
from pixtools.operations import OPERATIONS
from pixtools.operations.base.resizing import Resizing

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
    """Results for every source format, every output format and every value of `strip`."""
    return {
        (source, name, strip): encoded(photo_with_metadata(source), name, strip)
        for source in SOURCES
        for name in ENCODERS
        for strip in STRIPS
    }


@pytest.fixture(scope="module")
def exiftool_tags(outputs, tmp_path_factory) -> dict[tuple[str, str, str], dict]:
    """The tags that exiftool finds in each output."""
    folder = tmp_path_factory.mktemp("outputs")
    names = {key: f"{'-'.join(key).replace(' ', '-')}.{key[1]}" for key in outputs}
    for key, data in outputs.items():
        (folder / names[key]).write_bytes(data)
    found = tags(folder)
    return {key: found[name] for key, name in names.items()}


each_output = pytest.mark.parametrize(("source", "name"), [(source, name) for source in SOURCES for name in ENCODERS])


@pytest.mark.parametrize("source", SOURCES)
def test_metadata_is_read_from_every_format(source):
    picture = decode(photo_with_metadata(source))

    assert distance(picture.image.convert("RGB"), photo()) < 6  # so the picture is upright
    assert tiff_tags.parse(picture.metadata.exif) is not None
    assert b"PixCam" in picture.metadata.exif
    assert b"secret city" in picture.metadata.xmp
    assert picture.metadata.iptc == (iptc() if source in ("JPEG", "TIFF") else b"")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF", "GIF", "BMP"])
def test_a_file_without_metadata_has_empty_blocks(kind):
    assert decode(saved(Image.fromarray(photo()), kind)).metadata == Metadata()


@each_output
def test_by_default_camera_and_exposure_are_kept_and_private_data_are_removed(outputs, source, name):
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
def test_the_default_of_strip_is_gps(outputs, name):
    assert encoded(photo_with_metadata("JPEG"), name) == outputs["JPEG", name, "gps"]


@each_output
def test_strip_all_removes_everything(outputs, source, name):
    data = outputs[source, name, "all"]

    assert not [word for word in (b"secret", b"PixCam", b"Exif", b"Photoshop", b"2026:02:03") if word in data]
    assert dict(opened(data).getexif()) == {}


@each_output
def test_strip_none_keeps_everything_except_thumbnail_and_orientation(outputs, source, name):
    data = outputs[source, name, "none"]

    for secret in (b"secret city", b"secret-body", b"secret owner", b"secret comment", b"PixMaker\0secret note"):
        assert secret in data
    assert b"secret thumbnail" not in data
    found = opened(data).getexif()
    assert found.get(0x0112, 1) == 1  # the orientation; Pillow also reads it from XMP
    assert found.get_ifd(0x8825)[1] == "S"
    assert found.get_ifd(0x8769)[0xA002] == SIZE[0]
    assert (iptc() in data) == (name == "jpg" and source in ("JPEG", "TIFF"))


def test_strip_all_keeps_the_profile():
    source = decode(photo_with_metadata("JPEG"))
    picture = Picture(source.frames, b"icc" * 50, source.metadata)

    png = OPERATIONS["png"]
    assert png.prepare(picture, png.params(strip="all")).icc == picture.icc


@needs_exiftool
@each_output
def test_exiftool_finds_no_place_person_or_hidden_picture_in_a_default_output(exiftool_tags, source, name):
    found = exiftool_tags[source, name, "gps"]

    assert identifying_tags(found) == []
    assert not [value for value in found.values() if "secret" in str(value)]
    assert (found["IFD0:Make"], found["ExifIFD:LensModel"]) == ("PixCam", "PixLens 35mm")
    assert (found["ExifIFD:ExifImageWidth"], found["ExifIFD:ExifImageHeight"]) == SIZE
    assert "IFD0:Orientation" not in found
    assert not [name for name in found if name.endswith(":Warning")]


@needs_exiftool
@each_output
def test_exiftool_finds_no_metadata_after_strip_all(exiftool_tags, source, name):
    found = exiftool_tags[source, name, "all"]

    assert not [name for name in found if name.startswith(("IFD", "ExifIFD", "GPS", "XMP", "IPTC", "Photoshop"))]


@needs_exiftool
@each_output
def test_exiftool_finds_all_metadata_after_strip_none(exiftool_tags, source, name):
    found = exiftool_tags[source, name, "none"]

    assert identifying_tags(found)
    assert found["GPS:GPSLatitude"] == pytest.approx(33.8599722)
    assert (found["ExifIFD:SerialNumber"], found["ExifIFD:OwnerName"]) == ("secret-body", "secret owner")
    assert found["XMP-photoshop:City"] == "secret city"
    assert found.get("XMP-tiff:Orientation", 1) == 1
    assert (found.get("IPTC:City") == "secret city") == (name == "jpg" and source in ("JPEG", "TIFF"))
    assert not [name for name in found if name.startswith("IFD1") or name == "IFD0:Orientation"]
    assert not [name for name in found if name.endswith(":Warning") and "MakerNotes" not in str(found[name])]


@needs_exiftool
@pytest.mark.parametrize("name", ENCODERS)
def test_structural_tags_of_a_tiff_are_not_kept(exiftool_tags, name):
    for strip in ("gps", "none"):
        for tag in ("ImageWidth", "StripOffsets", "Compression", "BitsPerSample", "PhotometricInterpretation"):
            assert f"IFD0:{tag}" not in exiftool_tags["TIFF", name, strip]


def test_an_operation_before_the_encoder_keeps_metadata_and_private_data_are_removed():
    picture = OPERATIONS["flip"].run(decode(photo_with_metadata("JPEG")), OPERATIONS["flip"].params())
    png = OPERATIONS["png"]

    data = png.encode(picture, png.params(), 0).data

    assert b"PixCam" in data
    assert b"secret" not in data


def test_metadata_is_shared_with_a_picture():
    picture = decode(photo_with_metadata("JPEG"))

    assert Picture.shared(*picture.share()).metadata == picture.metadata


def test_a_makers_note_keeps_its_offset():
    source = tiff_tags.parse(private_exif().removeprefix(b"Exif\0\0"))

    kept = metadata_blocks.select_metadata(Metadata(exif=source.to_bytes()), "none", SIZE)
    note = tiff_tags.parse(kept.exif).exif[tiff_tags.MAKER_NOTE]

    assert note.offset == source.exif[tiff_tags.MAKER_NOTE].offset
    assert bytes(note.value) == bytes(source.exif[tiff_tags.MAKER_NOTE].value)


def test_an_invalid_value_is_kept_unchanged():
    invalid = Image.Exif()
    invalid[0x010F] = "\0\xff\x01"
    inner = invalid.get_ifd(0x8769)
    inner[0x829A], inner[0x9003], inner[0x920A] = (0, 0), "yesterday", "long"
    before = tiff_tags.parse(invalid.tobytes()[6:])

    after = tiff_tags.parse(metadata_blocks.select_metadata(Metadata(exif=invalid.tobytes()[6:]), "gps", SIZE).exif)

    assert {tag: bytes(entry.value) for tag, entry in after.exif.items()} == {
        tag: bytes(entry.value) for tag, entry in before.exif.items()
    }


WHOLE = private_exif().removeprefix(b"Exif\0\0")


@given(
    damage=st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), max_size=12),
    end=st.integers(0, len(WHOLE)),
    strip=st.sampled_from(STRIPS),
)
def test_damaged_exif_never_fails_an_encoder(damage, end, strip):
    damaged = bytearray(WHOLE)
    for at, value in damage:
        damaged[at] = value
    picture = Picture((Image.new("L", (4, 4)),), None, Metadata(exif=bytes(damaged[:end]), xmp=XMP, iptc=iptc()))

    for name in ("jpg", "png", "webp"):
        operation = OPERATIONS[name]
        data = operation.encode(picture, operation.params(strip=strip), 0).data
        assert opened(data).size == (4, 4)
        if strip != "none":
            assert b"secret city" not in data


def test_the_largest_values_are_removed_first_if_metadata_exceeds_a_jpeg():
    large = exif()
    large[0x010E], large[0x8298] = "x" * 40_000, "y" * 30_000
    picture = Picture(
        (Image.new("L", (4, 4)),), None, Metadata(exif=large.tobytes()[6:], xmp=b"x" * 70_000, iptc=b"y" * 70_000)
    )
    jpg = OPERATIONS["jpg"]

    for strip in ("gps", "none"):
        found = opened(jpg.encode(picture, jpg.params(strip=strip), 0).data)

        assert found.getexif()[0x010F] == "PixCam"
        assert len(found.getexif()[0x8298]) == 30_000
        assert 0x010E not in found.getexif()
        assert not {"xmp", "photoshop"} & found.info.keys()


@pytest.mark.parametrize("strip", ["gps", "none"])
def test_60000_tags_that_share_their_bytes_cost_little(strip):
    shared = struct.pack("<2sHIH", b"II", 42, 8, 60_000)
    shared += b"".join(struct.pack("<HHII", tag, 7, 200_000, 8) for tag in range(1_000, 61_000))
    started = time.process_time()

    kept = metadata_blocks.select_metadata(Metadata(exif=shared), strip, SIZE)

    assert len(kept.exif) <= metadata_blocks.EXIF_BYTES
    assert time.process_time() - started < 2


def test_xmp_that_decompresses_to_50_mb_is_ignored():
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", "x" * 50_000_000, zip=True)
    bomb = saved(photo(), "PNG", pnginfo=info)

    assert metadata_blocks.png_blocks(io.BytesIO(bomb))[1] == b""


PHOTOS = os.environ.get("PIXTOOLS_TEST_DATA")
FOLDERS = ("exif", "cameras", "orientation", "avif", "heic")


@needs_exiftool
@pytest.mark.skipif(PHOTOS is None, reason="needs photos: set PIXTOOLS_TEST_DATA to their folder")
def test_default_outputs_of_real_photos_identify_no_place_and_no_person(tmp_path):
    written = 0
    for path in (path for folder in FOLDERS for path in sorted(Path(PHOTOS, "photos", folder).iterdir())):
        try:
            picture = OPERATIONS["resize"].run(decode(path.read_bytes()), Resizing(width=64))
        except (CorruptImage, UnsupportedType):
            continue
        for name in ENCODERS:
            operation = OPERATIONS[name]
            data = operation.encode(picture, operation.params(), 0).data
            (tmp_path / f"{path.parent.name}-{path.name}.{name}").write_bytes(data)
            written += 1
    assert written > 100

    for name, found in tags(tmp_path).items():
        assert identifying_tags(found) == [], name
        assert "IFD0:Orientation" not in found, name
