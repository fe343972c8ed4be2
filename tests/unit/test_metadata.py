"""These tests check which values the operation `metadata` reads from files. Some files are damaged or hostile."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from exiftool import needs_exiftool, tags
from hypothesis import given
from hypothesis import strategies as st
from images import (
    ALTITUDE,
    LATITUDE,
    LONGITUDE,
    animation,
    camera_jpeg,
    exif,
    iptc,
    photo,
    photo_with_metadata,
    saved,
    truncated_jpeg,
    wide_gamut_profile,
)
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from pixtools.errors import CorruptImage, UnsupportedType
from pixtools.imaging.decoding import decode
from pixtools.imaging.iptc import texts
from pixtools.operations import OPERATIONS
from pixtools.operations.metadata import METADATA, MetadataParams


def read(data: bytes) -> dict:
    """Run the operation, and check that Postgres would accept the result as JSON."""
    found = METADATA.run(data, MetadataParams())
    # Postgres rejects NaN, NUL characters and unpaired surrogates.
    text = json.dumps(found, allow_nan=False, ensure_ascii=False)
    assert "\\u0000" not in text
    assert text.encode().decode() == text
    return found


def jpeg_with(tags: Image.Exif) -> bytes:
    return saved(photo(), "JPEG", exif=tags)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
def test_camera_exposure_and_location_are_read_from_every_format_that_stores_them(kind):
    found = read(saved(photo(), kind, exif=exif(1)))

    assert found["camera"] == "PixCam One"
    assert found["exif"]["exposure_time"] == 0.004
    assert found["exif"]["f_number"] == 2.8
    assert found["exif"]["iso_speed_ratings"] == 200
    assert found["exif"]["date_time_original"] == "2026:02:03 04:05:06"
    assert found["gps"]["latitude"] == pytest.approx(LATITUDE, abs=1e-7)
    assert found["gps"]["longitude"] == pytest.approx(LONGITUDE, abs=1e-7)
    assert found["gps"]["altitude_m"] == ALTITUDE


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "PNG behind", "WEBP", "AVIF", "TIFF", "HEIF"])
def test_values_of_a_camera_have_plain_names_and_units(kind):
    found = read(photo_with_metadata(kind))

    assert (found["width"], found["height"]) == (96, 64)
    assert (found["camera"], found["lens"]) == ("PixCam One", "PixLens 35mm")
    assert found["taken_at"] == "2026-02-03T04:05:06+09:00"
    assert found["exposure"] == {
        "time_s": 0.004, "f_number": 2.8, "iso": 200, "focal_length_mm": 35.0, "focal_length_35mm_mm": 53,
    }  # fmt: skip
    assert found["gps"] == {"latitude": -33.8599722, "longitude": 151.2111111, "altitude_m": 58.5}
    assert found["exif"].items() >= {
        "artist": "A. Painter", "body_serial_number": "secret-body", "user_comment": "secret comment",
        "xp_subject": "secret subject", "offset_time_original": "+09:00",
    }.items()  # fmt: skip
    assert found["xmp"].items() >= {"city": "secret city", "rating": "4", "title": "Scene"}.items()
    assert found["xmp"]["subject"] == ["soft", "bright"]
    iptc_too = kind in ("JPEG", "TIFF")
    assert found["iptc"] == ({"city": "secret city", "keywords": ["soft", "Grüße"]} if iptc_too else {})


def test_the_metadata_that_an_encoder_keeps_can_be_read_from_its_file():
    webp = OPERATIONS["webp"]
    source = photo_with_metadata("JPEG")

    found = read(webp.encode(decode(source), webp.params(), len(source)).data)

    assert (found["camera"], found["taken_at"]) == ("PixCam One", "2026-02-03T04:05:06+09:00")
    assert (found["gps"], found["xmp"], found["iptc"]) == (None, {}, {})


@pytest.mark.parametrize(
    ("tags", "taken_at"),
    [
        ({0x9003: "2026:02:03 04:05:06"}, "2026-02-03T04:05:06"),
        ({0x9003: "2026:02:03 04:05:06", 0x9291: "120", 0x9011: "-03:30"}, "2026-02-03T04:05:06.120-03:30"),
        ({0x9003: "2026:02:03 04:05:06", 0x9291: "a", 0x9011: "Tokyo"}, "2026-02-03T04:05:06"),
        ({0x9003: "0000:00:00 00:00:00", 0x9004: "2026:02:03 04:05:06"}, "2026-02-03T04:05:06"),
        ({0x9003: "2026:02:30 04:05:06"}, None),
        ({0x9003: 7}, None),
        ({}, None),
    ],
)
def test_the_time_has_an_offset_only_if_the_camera_recorded_it(tags, taken_at):
    written = Image.Exif()
    written[0x010F] = "PixCam"
    written.get_ifd(0x8769).update(tags)

    assert read(jpeg_with(written))["taken_at"] == taken_at


@pytest.mark.parametrize(
    ("tags", "exposure"),
    [
        ({0x8822: 3, 0x9207: 2, 0x9209: 0x19, 0x9204: IFDRational(-2, 3)},
         {"program": "aperture priority", "metering": "center-weighted", "flash": True, "bias_ev": -0.66666667}),
        ({0x9209: 0x10, 0xA405: 0, 0x920A: IFDRational(0, 1)}, {"flash": False}),
        ({0x8827: 65535, 0x8832: 102_400}, {"iso": 102_400}),
        ({0x8827: (200, 0)}, {"iso": 200}),
        ({0x8822: 99, 0x829A: "fast", 0x829D: IFDRational(0, 0)}, {}),
    ],
)  # fmt: skip
def test_exposure_has_words_and_units_and_omits_invalid_values(tags, exposure):
    written = Image.Exif()
    written[0x010F] = "PixCam"
    written.get_ifd(0x8769).update(tags)

    assert read(jpeg_with(written))["exposure"] == exposure


def test_a_location_in_signed_numbers_is_checked_against_the_same_range():
    tags = exif()
    tags.get_ifd(0x8825)[4] = (IFDRational(1000), IFDRational(0), IFDRational(0))
    data = jpeg_with(tags)
    for at, unsigned, signed in ((">HHI", (4, 5, 3), (4, 10, 3)), (">ii", (1000, 1), (-1000, 1))):
        assert data.count(struct.pack(at, *unsigned)) == 1
        data = data.replace(struct.pack(at, *unsigned), struct.pack(at, *signed))

    assert read(data)["gps"] is None


def test_a_satellite_time_out_of_range_is_omitted():
    tags = exif()
    tags.get_ifd(0x8825).update({0x1D: "2026:02:02", 7: (IFDRational(4_294_967_295), IFDRational(0), IFDRational(0))})

    assert read(jpeg_with(tags))["gps"].keys() == {"latitude", "longitude", "altitude_m"}


def test_direction_error_and_satellite_time_are_part_of_the_location():
    tags = exif()
    tags.get_ifd(0x8825).update(
        {0x11: IFDRational(9025, 100), 0x1F: IFDRational(5), 0x1D: "2026:02:02", 7: (19.0, 5.0, 6.0)}
    )

    gps = read(jpeg_with(tags))["gps"]

    assert gps.items() >= {"direction": 90.25, "error_m": 5.0, "taken_at": "2026-02-02T19:05:06Z"}.items()


def rdf(inside: str) -> bytes:
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"'
        f' xmlns:a="urn:a" xmlns:b="urn:b">{inside}</rdf:RDF></x:xmpmeta>'
    ).encode()


@pytest.mark.parametrize(
    ("inside", "found"),
    [
        ('<rdf:Description a:CreatorTool="Pix 1"/>', {"creator_tool": "Pix 1"}),
        ("<rdf:Description><a:Rating> 4 </a:Rating></rdf:Description>", {"rating": "4"}),
        ('<rdf:Description a:x="one" b:x="two"/><rdf:Description b:y="three"/>', {"x": "one", "y": "three"}),
        ('<rdf:Description><a:at rdf:parseType="Resource"><b:city>Rom</b:city></a:at></rdf:Description>',
         {"at": {"city": "Rom"}}),
        ('<rdf:Description><a:log><rdf:Seq><rdf:li b:action="saved" b:when="now"/></rdf:Seq></a:log></rdf:Description>',
         {"log": [{"action": "saved", "when": "now"}]}),
        ("<rdf:Description><a:e/><a:f><rdf:Bag/></a:f><a:g><rdf:Alt/></a:g></rdf:Description>", {}),
        (f"<rdf:Description><a:x>{'x' * 3_000}</a:x></rdf:Description>", {}),
        ("<rdf:Description><a:x></rdf:Description>", {}),
    ],
)  # fmt: skip
def test_xmp_becomes_plain_names_lists_and_structures(inside, found):
    assert read(saved(photo(), "JPEG", xmp=rdf(inside)))["xmp"] == found


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(b"\xff\xfe\0\0", id="garbage"),
        pytest.param(b'<?xml version="1.0" encoding="nonsense"?><a/>', id="an unknown encoding"),
        pytest.param(
            b'<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;">]><x>&b;</x>', id="entities"
        ),
        pytest.param(b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>', id="an external document"),
        pytest.param(rdf("<rdf:Description>" + "<a:x>" * 5_000 + "</a:x>" * 5_000 + "</rdf:Description>"), id="deep"),
    ],
)
def test_broken_or_hostile_xmp_gives_no_values(block):
    assert read(saved(photo(), "JPEG", xmp=block))["xmp"] == {}


def test_a_megabyte_of_xmp_is_cut_at_the_limit():
    inside = "".join(f"<rdf:Description><a:x{at}>{'y' * 1_000}</a:x{at}></rdf:Description>" for at in range(900))

    found = read(saved(photo(), "WEBP", xmp=rdf(inside)))

    assert 10 < len(found["xmp"]) < 100
    assert found["xmp"]["x0"] == "y" * 1_000


def test_a_megabyte_of_nested_xmp_gives_no_values():
    block = rdf("<rdf:Description>" + "<a:x>" * 80_000 + "</a:x>" * 80_000 + "</rdf:Description>")

    assert read(saved(photo(), "WEBP", xmp=block))["xmp"] == {}


@given(block=st.binary(max_size=60) | st.builds(lambda rest: iptc() + b"\x1c\x02" + rest, st.binary(max_size=30)))
def test_broken_iptc_is_read_up_to_the_break(block):
    found = texts(block)

    json.dumps(found)
    assert not block.startswith(iptc()) or found["city"] == "secret city"


PHOTOS = os.environ.get("PIXTOOLS_TEST_DATA")
needs_photos = pytest.mark.skipif(PHOTOS is None, reason="needs photos: set PIXTOOLS_TEST_DATA to their folder")


@needs_photos
@needs_exiftool
@pytest.mark.parametrize("folder", ["exif", "cameras", "orientation", "avif", "heic"])
def test_values_of_real_photos_equal_those_that_exiftool_reads(folder):
    by_file = tags(Path(PHOTOS, "photos", folder))
    for path in sorted(Path(PHOTOS, "photos", folder).iterdir()):
        try:
            found, other = read(path.read_bytes()), by_file[path.name]
        except (CorruptImage, UnsupportedType):
            continue
        ours = {"ExifIFD:DateTimeOriginal": (found["taken_at"] or "")[:19].replace("-", ":").replace("T", " ") or None}
        names = {"time_s": "ExposureTime", "f_number": "FNumber", "iso": "ISO", "focal_length_mm": "FocalLength"}
        ours |= {f"ExifIFD:{name}": found["exposure"].get(own) for own, name in names.items()}
        if found["gps"]:
            ours |= {f"Composite:GPS{name.title()}": found["gps"][name] for name in ("latitude", "longitude")}
        for name, value in ours.items():
            theirs = other.get(name) or None
            expected = pytest.approx(theirs, rel=1e-4) if isinstance(theirs, float) else theirs
            assert value == expected, (path.name, name)


def test_the_container_is_described():
    data = camera_jpeg(120, 80)

    found = read(data)

    expected = {"media_type": "image/jpeg", "width": 120, "height": 80, "mode": "RGB", "frames": 1, "bytes": len(data)}
    assert found.items() >= expected.items()
    assert found["icc_profile"] == "Wide for test"


def test_frames_are_counted():
    assert read(animation(7))["frames"] == 7


def test_a_file_without_metadata_has_no_camera_and_no_location():
    found = read(saved(photo(), "PNG"))

    assert (found["camera"], found["gps"], found["exif"], found["icc_profile"]) == (None, None, {}, None)


@pytest.mark.parametrize(
    ("make", "model", "camera"),
    [
        ("Canon", "Canon EOS 40D", "Canon EOS 40D"),
        ("Apple", "iPhone 15", "Apple iPhone 15"),
        ("Acme", None, "Acme"),
        (None, "X100", "X100"),
        ("  ", "\0", None),
    ],
)
def test_the_maker_is_not_repeated_before_the_model(make, model, camera):
    tags = Image.Exif()
    for tag, value in ((0x010F, make), (0x0110, model)):
        if value is not None:
            tags[tag] = value

    assert read(jpeg_with(tags))["camera"] == camera


@pytest.mark.parametrize(
    ("refs", "signs"), [(("N", "E"), (1, 1)), (("N", "W"), (1, -1)), (("S", "E"), (-1, 1)), (("S", "W"), (-1, -1))]
)
def test_north_and_east_are_positive(refs, signs):
    tags = exif()
    place = tags.get_ifd(0x8825)
    place[1], place[3] = refs

    gps = read(jpeg_with(tags))["gps"]

    assert gps["latitude"] == pytest.approx(abs(LATITUDE) * signs[0])
    assert gps["longitude"] == pytest.approx(LONGITUDE * signs[1])


def test_an_altitude_below_the_sea_is_negative():
    tags = exif()
    tags.get_ifd(0x8825)[5] = b"\x01"

    assert read(jpeg_with(tags))["gps"]["altitude_m"] == -ALTITUDE


@pytest.mark.parametrize(
    ("tag", "value"),
    [
        pytest.param(2, (IFDRational(91), IFDRational(0), IFDRational(0)), id="a latitude of 91 degrees"),
        pytest.param(4, (IFDRational(180), IFDRational(0), IFDRational(1)), id="a longitude beyond 180 degrees"),
        pytest.param(2, (IFDRational(0, 0), IFDRational(0), IFDRational(0)), id="no number"),
        pytest.param(2, (IFDRational(1), IFDRational(2)), id="no seconds"),
    ],
)
def test_an_impossible_location_is_omitted(tag, value):
    tags = exif()
    tags.get_ifd(0x8825)[tag] = value

    found = read(jpeg_with(tags))

    assert found["gps"] is None
    assert found["camera"] == "PixCam One"


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (IFDRational(1, 3), 0.33333333),
        (IFDRational(0, 0), None),
        (IFDRational(1, 0), None),
    ],
)
def test_rationals_become_numbers_or_are_omitted(value, plain):
    tags = Image.Exif()
    tags.get_ifd(0x8769)[0x829A] = value

    assert read(jpeg_with(tags))["exif"].get("exposure_time") == plain


def test_text_ends_at_its_nul_and_binary_values_are_omitted():
    tags = Image.Exif()
    tags[0x010F] = "Acme\0hidden"
    tags[0x010E] = "x" * 5_000
    tags.get_ifd(0x8769)[0x927C] = bytes(range(256))  # the maker's note, a binary value

    found = read(jpeg_with(tags))

    assert found["camera"] == "Acme"
    assert "image_description" not in found["exif"]
    assert "maker_note" not in found["exif"]


WHOLE = exif(1).tobytes()


@given(
    damage=st.lists(st.tuples(st.integers(0, len(WHOLE) - 7), st.integers(0, 255)), min_size=1, max_size=12),
    end=st.integers(7, len(WHOLE)),
)
def test_damaged_tags_never_hide_the_values_of_the_container(damage, end):
    data = bytearray(WHOLE)
    for at, value in damage:
        data[6 + at] = value  # the tags begin after "Exif\0\0"

    found = read(saved(photo(16, 16), "JPEG", exif=bytes(data[:end])))

    assert (found["width"], found["height"]) == (16, 16)


@pytest.mark.parametrize(
    "profile",
    [
        pytest.param(b"no profile", id="garbage"),
        pytest.param(wide_gamut_profile()[:200], id="cut"),
        pytest.param(wide_gamut_profile("bad \0 name"), id="NUL"),
        pytest.param(wide_gamut_profile("bad \ud800 name"), id="half a surrogate pair"),
    ],
)
def test_a_broken_profile_name_is_readable_text_or_omitted(profile):
    name = read(saved(photo(), "JPEG", icc_profile=profile))["icc_profile"]

    assert name is None or "\0" not in name


def test_the_header_of_a_truncated_jpeg_is_read():
    found = read(truncated_jpeg())

    assert (found["width"], found["camera"]) == (400, "PixCam One")


@pytest.mark.parametrize("tags", [{}, {"exif": exif(1)}], ids=["without tags", "with tags"])
def test_the_header_of_a_truncated_png_is_read(tags):
    whole = saved(photo(400, 300), "PNG", **tags)

    found = read(whole[: len(whole) // 2])

    assert (found["width"], found["height"]) == (400, 300)


def test_the_mode_of_a_16_bit_file_is_reported():
    assert read(saved(Image.fromarray(np.zeros((4, 4), np.uint16)), "PNG"))["mode"] == "I;16"


@pytest.mark.parametrize(("data", "error"), [(b"%PDF-1.7", UnsupportedType), (b"\xff\xd8\xff garbage", CorruptImage)])
def test_a_file_that_is_not_an_image_is_an_error(data, error):
    with pytest.raises(error):
        METADATA.run(data, MetadataParams())
