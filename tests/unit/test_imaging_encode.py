"""From pixels to pixels and to files: shapes are kept, nothing is enlarged, and no file says more than its pixels."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import strategies as st
from images import camera_jpeg, distance, opened, photo, saved, wide_gamut_profile
from PIL import Image, PngImagePlugin

from pixtools.errors import UnencodableImage
from pixtools.imaging.color import flatten
from pixtools.imaging.decoding import decode
from pixtools.imaging.encoding import encode
from pixtools.imaging.picture import Picture
from pixtools.operations.base.kinds import EncodeParams

KINDS = ("JPEG", "PNG", "WEBP", "AVIF")
SIDES = st.integers(1, 16_384)


def test_transparency_becomes_white_and_hidden_colours_stay_hidden():
    pixels = np.array([[[10, 20, 30, 255], [200, 0, 0, 0], [0, 0, 0, 128]]], np.uint8)

    flat = flatten(Picture.still(Image.fromarray(pixels), b"icc"))

    assert (flat.image.mode, flat.icc) == ("RGB", b"icc")
    assert np.asarray(flat.image).tolist() == [[[10, 20, 30], [255, 255, 255], [127, 127, 127]]]


def test_transparent_grey_becomes_grey_on_white():
    flat = flatten(Picture.still(Image.fromarray(np.array([[[7, 255], [7, 0]]], np.uint8)), None))

    assert flat.image.mode == "L"
    assert np.asarray(flat.image).tolist() == [[7, 255]]


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_an_opaque_picture_is_flat_already(mode):
    picture = Picture.still(Image.fromarray(photo()).convert(mode), None)

    assert flatten(picture) is picture


@pytest.mark.parametrize("kind", KINDS)
def test_the_colour_profile_is_written(kind):
    picture = decode(camera_jpeg())

    assert opened(encode(picture, kind)).info["icc_profile"] == wide_gamut_profile()


@pytest.mark.parametrize("kind", KINDS)
def test_no_profile_is_invented(kind):
    assert "icc_profile" not in opened(encode(Picture.still(Image.fromarray(photo()), None), kind)).info


@pytest.mark.parametrize("kind", KINDS)
def test_text_and_resolution_of_a_png_stay_behind(kind):
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "secret comment")
    text.add_text("exif", "secret")  # which Pillow takes for what it is not
    text.add_itxt("XML:com.adobe.xmp", "secret xmp")
    source = saved(photo(), "PNG", pnginfo=text, dpi=(300, 300))
    assert b"secret" in source

    written = default_file(source, kind)

    assert_says_nothing(written)
    assert opened(written).info.get("dpi") is None


@pytest.mark.parametrize("kind", KINDS)
def test_the_comment_of_a_gif_stays_behind(kind):
    source = saved(Image.fromarray(photo()).quantize(16), "GIF", comment=b"secret comment")
    assert b"secret" in source

    assert_says_nothing(default_file(source, kind))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_appended_to_an_image_stays_behind(kind):
    source = saved(photo(), "JPEG") + b"PK\x03\x04 secret script"

    assert_says_nothing(default_file(source, kind))


def default_file(source: bytes, kind: str) -> bytes:
    return encode(EncodeParams().prepare(decode(source)), kind)


def assert_says_nothing(data: bytes):
    for word in (b"secret", b"PixCam", b"Exif", b"xmp", b"2026:02:03"):
        assert word not in data
    image = opened(data)
    assert dict(image.getexif()) == {}
    assert not {"exif", "xmp", "XML:com.adobe.xmp", "comment", "Comment"} & image.info.keys()


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF"])
def test_a_lossy_file_is_the_same_scene(kind):
    assert distance(opened(encode(Picture.still(Image.fromarray(photo()), None), kind, quality=90)), photo()) < 6


def test_a_picture_too_wide_for_webp_is_unencodable_and_says_why():
    wide = Picture.still(Image.new("RGB", (17_000, 1)), None)

    with pytest.raises(UnencodableImage, match=r"17000 × 1 pixels cannot be written as WEBP .*16383"):
        encode(wide, "WEBP")


def test_a_picture_too_wide_for_jpeg_is_unencodable():
    with pytest.raises(UnencodableImage, match="65501 × 1"):
        encode(Picture.still(Image.new("RGB", (65_501, 1)), None), "JPEG")


def test_a_picture_too_wide_for_avif_is_unencodable():
    with pytest.raises(UnencodableImage, match="65537 × 1"):
        encode(Picture.still(Image.new("RGB", (65_537, 1)), None), "AVIF")


def test_the_same_picture_gives_the_same_bytes():
    assert encode(decode(camera_jpeg()), "PNG") == encode(decode(camera_jpeg()), "PNG")


def test_an_encoded_file_is_complete():
    data = encode(Picture.still(Image.fromarray(photo()), None), "PNG")

    Image.open(io.BytesIO(data)).verify()
    assert data.endswith(b"IEND\xaeB`\x82")
