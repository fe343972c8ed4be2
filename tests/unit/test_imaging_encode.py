"""Encoding writes pixels and profile. By default, comments and appended data of the source are removed."""

from __future__ import annotations

import io

import numpy as np
import pytest
from images import camera_jpeg, distance, opened, photo, saved, wide_gamut_profile
from PIL import Image, PngImagePlugin

from pixtools.errors import UnencodableImage
from pixtools.imaging.color import flatten
from pixtools.imaging.decoding import decode
from pixtools.imaging.encoding import encode
from pixtools.imaging.picture import Picture
from pixtools.operations.png import PNG

KINDS = ("JPEG", "PNG", "WEBP", "AVIF")


def test_flattening_draws_on_white_and_hides_the_colours_of_transparent_pixels():
    pixels = np.array([[[10, 20, 30, 255], [200, 0, 0, 0], [0, 0, 0, 128]]], np.uint8)

    flat = flatten(Picture.still(Image.fromarray(pixels), b"icc"))

    assert (flat.image.mode, flat.icc) == ("RGB", b"icc")
    assert np.asarray(flat.image).tolist() == [[[10, 20, 30], [255, 255, 255], [127, 127, 127]]]


def test_grey_with_alpha_becomes_grey_on_white():
    flat = flatten(Picture.still(Image.fromarray(np.array([[[7, 255], [7, 0]]], np.uint8)), None))

    assert flat.image.mode == "L"
    assert np.asarray(flat.image).tolist() == [[7, 255]]


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_flattening_returns_an_opaque_picture_as_it_is(mode):
    picture = Picture.still(Image.fromarray(photo()).convert(mode), None)

    assert flatten(picture) is picture


@pytest.mark.parametrize("kind", KINDS)
def test_the_colour_profile_is_written(kind):
    picture = decode(camera_jpeg())

    assert opened(encode(picture, kind)).info["icc_profile"] == wide_gamut_profile()


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_without_a_profile_is_written_without_one(kind):
    assert "icc_profile" not in opened(encode(Picture.still(Image.fromarray(photo()), None), kind)).info


@pytest.mark.parametrize("kind", KINDS)
def test_text_and_resolution_of_a_png_are_removed(kind):
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "secret comment")
    text.add_text("exif", "secret")  # Pillow would read this text as EXIF
    text.add_itxt("XML:com.adobe.xmp", "secret xmp")
    source = saved(photo(), "PNG", pnginfo=text, dpi=(300, 300))
    assert b"secret" in source

    written = default_file(source, kind)

    assert_has_no_metadata(written)
    assert opened(written).info.get("dpi") is None


@pytest.mark.parametrize("kind", KINDS)
def test_the_comment_of_a_gif_is_removed(kind):
    source = saved(Image.fromarray(photo()).quantize(16), "GIF", comment=b"secret comment")
    assert b"secret" in source

    assert_has_no_metadata(default_file(source, kind))


@pytest.mark.parametrize("kind", KINDS)
def test_data_appended_to_an_image_are_removed(kind):
    source = saved(photo(), "JPEG") + b"PK\x03\x04 secret script"

    assert_has_no_metadata(default_file(source, kind))


def default_file(source: bytes, kind: str) -> bytes:
    return encode(PNG.prepare(decode(source), PNG.params()), kind)


def assert_has_no_metadata(data: bytes):
    for word in (b"secret", b"PixCam", b"Exif", b"xmp", b"2026:02:03"):
        assert word not in data
    image = opened(data)
    assert dict(image.getexif()) == {}
    assert not {"exif", "xmp", "XML:com.adobe.xmp", "comment", "Comment"} & image.info.keys()


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF"])
def test_a_lossy_file_shows_the_same_scene(kind):
    assert distance(opened(encode(Picture.still(Image.fromarray(photo()), None), kind, quality=90)), photo()) < 6


def test_a_picture_too_wide_for_webp_is_unencodable_and_the_error_names_the_limit():
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
