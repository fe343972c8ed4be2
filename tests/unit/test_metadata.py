"""Metadata: what a file says of itself, as JSON can carry it, however wild the file."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from images import (
    ALTITUDE,
    LATITUDE,
    LONGITUDE,
    animation,
    camera_jpeg,
    exif,
    photo,
    saved,
    truncated_jpeg,
    wide_gamut_profile,
)
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from pixtools.errors import CorruptImage, UnsupportedType
from pixtools.operations.metadata import METADATA, Metadata


def facts(data: bytes) -> dict:
    found = METADATA.run(data, Metadata())
    # Strict JSON, as Postgres takes it: no NaN, no NUL, no half of a surrogate pair.
    text = json.dumps(found, allow_nan=False, ensure_ascii=False)
    assert "\\u0000" not in text
    assert text.encode().decode() == text
    return found


def jpeg_with(tags: Image.Exif) -> bytes:
    return saved(photo(), "JPEG", exif=tags)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
def test_camera_exposure_and_place_are_found_in_every_format_that_has_them(kind):
    found = facts(saved(photo(), kind, exif=exif(1)))

    assert found["camera"] == "PixCam One"
    assert found["exif"]["exposure_time"] == 0.004
    assert found["exif"]["f_number"] == 2.8
    assert found["exif"]["iso_speed_ratings"] == 200
    assert found["exif"]["date_time_original"] == "2026:02:03 04:05:06"
    assert found["gps"]["latitude"] == pytest.approx(LATITUDE, abs=1e-7)
    assert found["gps"]["longitude"] == pytest.approx(LONGITUDE, abs=1e-7)
    assert found["gps"]["altitude_m"] == ALTITUDE


def test_the_container_is_described():
    data = camera_jpeg(120, 80)

    found = facts(data)

    expected = {"media_type": "image/jpeg", "width": 120, "height": 80, "mode": "RGB", "frames": 1, "bytes": len(data)}
    assert found.items() >= expected.items()
    assert found["icc_profile"] == "Wide for test"


def test_frames_are_counted():
    assert facts(animation(7))["frames"] == 7


def test_a_file_that_says_nothing_has_no_camera_and_no_place():
    found = facts(saved(photo(), "PNG"))

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
def test_a_maker_is_named_once(make, model, camera):
    tags = Image.Exif()
    for tag, value in ((0x010F, make), (0x0110, model)):
        if value is not None:
            tags[tag] = value

    assert facts(jpeg_with(tags))["camera"] == camera


@pytest.mark.parametrize(
    ("refs", "signs"), [(("N", "E"), (1, 1)), (("N", "W"), (1, -1)), (("S", "E"), (-1, 1)), (("S", "W"), (-1, -1))]
)
def test_north_and_east_are_positive(refs, signs):
    tags = exif()
    place = tags.get_ifd(0x8825)
    place[1], place[3] = refs

    gps = facts(jpeg_with(tags))["gps"]

    assert gps["latitude"] == pytest.approx(abs(LATITUDE) * signs[0])
    assert gps["longitude"] == pytest.approx(LONGITUDE * signs[1])


def test_an_altitude_below_the_sea_is_negative():
    tags = exif()
    tags.get_ifd(0x8825)[5] = b"\x01"

    assert facts(jpeg_with(tags))["gps"]["altitude_m"] == -ALTITUDE


@pytest.mark.parametrize(
    ("tag", "value"),
    [
        pytest.param(2, (IFDRational(91), IFDRational(0), IFDRational(0)), id="a latitude of 91 degrees"),
        pytest.param(4, (IFDRational(180), IFDRational(0), IFDRational(1)), id="a longitude beyond 180 degrees"),
        pytest.param(2, (IFDRational(0, 0), IFDRational(0), IFDRational(0)), id="no number"),
        pytest.param(2, (IFDRational(1), IFDRational(2)), id="no seconds"),
    ],
)
def test_a_place_that_cannot_be_is_left_out(tag, value):
    tags = exif()
    tags.get_ifd(0x8825)[tag] = value

    found = facts(jpeg_with(tags))

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
def test_rationals_become_numbers_or_nothing(value, plain):
    tags = Image.Exif()
    tags.get_ifd(0x8769)[0x829A] = value

    assert facts(jpeg_with(tags))["exif"].get("exposure_time") == plain


def test_text_ends_at_its_nul_and_blobs_are_left_out():
    tags = Image.Exif()
    tags[0x010F] = "Acme\0hidden"
    tags[0x010E] = "x" * 5_000
    tags.get_ifd(0x8769)[0x927C] = bytes(range(256))  # the maker's note

    found = facts(jpeg_with(tags))

    assert found["camera"] == "Acme"
    assert "image_description" not in found["exif"]
    assert "maker_note" not in found["exif"]


WHOLE = exif(1).tobytes()


@given(
    damage=st.lists(st.tuples(st.integers(0, len(WHOLE) - 7), st.integers(0, 255)), min_size=1, max_size=12),
    end=st.integers(7, len(WHOLE)),
)
def test_nonsense_in_the_tags_never_hides_what_the_container_says(damage, end):
    data = bytearray(WHOLE)
    for at, value in damage:
        data[6 + at] = value  # behind "Exif\0\0"

    found = facts(saved(photo(16, 16), "JPEG", exif=bytes(data[:end])))

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
def test_a_profile_with_a_broken_name_is_a_fact_or_nothing(profile):
    name = facts(saved(photo(), "JPEG", icc_profile=profile))["icc_profile"]

    assert name is None or "\0" not in name


def test_a_truncated_jpeg_still_says_what_its_header_says():
    found = facts(truncated_jpeg())

    assert (found["width"], found["camera"]) == (400, "PixCam One")


@pytest.mark.parametrize("tags", [{}, {"exif": exif(1)}], ids=["without tags", "with tags"])
def test_a_truncated_png_still_says_what_its_header_says(tags):
    whole = saved(photo(400, 300), "PNG", **tags)

    found = facts(whole[: len(whole) // 2])

    assert (found["width"], found["height"]) == (400, 300)


def test_16_bits_are_told():
    assert facts(saved(Image.fromarray(np.zeros((4, 4), np.uint16)), "PNG"))["mode"] == "I;16"


@pytest.mark.parametrize(("data", "error"), [(b"%PDF-1.7", UnsupportedType), (b"\xff\xd8\xff garbage", CorruptImage)])
def test_a_file_that_is_no_image_is_named_as_such(data, error):
    with pytest.raises(error):
        METADATA.run(data, Metadata())
