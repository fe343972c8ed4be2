"""From pixels to pixels and to files: shapes are kept, nothing is enlarged, and no file says more than its pixels."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from images import camera_jpeg, distance, exif, opened, photo, saved, wide_gamut_profile
from PIL import Image, PngImagePlugin

from pixtools.errors import UnencodableImage
from pixtools.imaging import Picture, decode, encode, fit_inside, flatten, resize

KINDS = ("JPEG", "PNG", "WEBP", "AVIF")
SIDES = st.integers(1, 16_384)


@given(size=st.tuples(SIDES, SIDES), box=st.tuples(SIDES, SIDES | st.none()), turned=st.booleans())
def test_a_fitted_size_is_inside_the_box_not_enlarged_and_of_the_same_shape(size, box, turned):
    width, height = reversed(box) if turned else box
    fitted = fit_inside(size, width, height)

    assert 1 <= fitted[0] <= min(size[0], width or size[0])
    assert 1 <= fitted[1] <= min(size[1], height or size[1])
    # Of the same shape to within the rounding of a pixel, unless one is the least that a side can have.
    if 1 not in fitted:
        assert abs(fitted[0] * size[1] - fitted[1] * size[0]) <= max(size) * 0.5 + min(size) * 0.5
    assert fitted == size or fitted[0] == width or fitted[1] == height


@pytest.mark.parametrize(
    ("size", "width", "height", "fitted"),
    [
        ((4000, 3000), 1280, None, (1280, 960)),
        ((4000, 3000), None, 300, (400, 300)),
        ((4000, 3000), 100, 100, (100, 75)),
        ((3000, 4000), 100, 100, (75, 100)),
        ((200, 100), 400, 400, (200, 100)),
        ((5000, 1), 100, None, (100, 1)),
        ((3, 2), 1, 1, (1, 1)),
    ],
)
def test_a_size_is_fitted_inside_its_box(size, width, height, fitted):
    assert fit_inside(size, width, height) == fitted


def test_a_resized_photo_is_the_same_scene():
    small = resize(Picture(Image.fromarray(photo(384, 256)), b"icc"), (96, 64))

    assert small.icc == b"icc"
    assert distance(small.image, photo(96, 64)) < 6


def test_a_picture_of_the_right_size_is_not_resampled():
    picture = Picture(Image.fromarray(photo()), None)

    assert resize(picture, (96, 64)) is picture


def test_hidden_colours_do_not_bleed_into_what_is_seen_when_resized():
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[:, :4] = (255, 0, 0, 0)  # an unseen red
    pixels[:, 4:] = (0, 0, 255, 255)

    small = np.asarray(resize(Picture(Image.fromarray(pixels), None), (3, 3)).image).astype(int)

    seen = small[small[:, :, 3] > 0]
    assert seen[:, 0].max() <= 1


def test_transparency_becomes_white_and_hidden_colours_stay_hidden():
    pixels = np.array([[[10, 20, 30, 255], [200, 0, 0, 0], [0, 0, 0, 128]]], np.uint8)

    flat = flatten(Picture(Image.fromarray(pixels), b"icc"))

    assert (flat.image.mode, flat.icc) == ("RGB", b"icc")
    assert np.asarray(flat.image).tolist() == [[[10, 20, 30], [255, 255, 255], [127, 127, 127]]]


def test_transparent_grey_becomes_grey_on_white():
    flat = flatten(Picture(Image.fromarray(np.array([[[7, 255], [7, 0]]], np.uint8)), None))

    assert flat.image.mode == "L"
    assert np.asarray(flat.image).tolist() == [[7, 255]]


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_an_opaque_picture_is_flat_already(mode):
    picture = Picture(Image.fromarray(photo()).convert(mode), None)

    assert flatten(picture) is picture


@pytest.mark.parametrize("kind", KINDS)
def test_the_colour_profile_is_written(kind):
    picture = decode(camera_jpeg())

    assert opened(encode(picture, kind)).info["icc_profile"] == wide_gamut_profile()


@pytest.mark.parametrize("kind", KINDS)
def test_no_profile_is_invented(kind):
    assert "icc_profile" not in opened(encode(Picture(Image.fromarray(photo()), None), kind)).info


@pytest.mark.parametrize("kind", KINDS)
def test_camera_place_comment_and_xmp_of_a_jpeg_stay_behind(kind):
    source = camera_jpeg(orientation=6)
    assert b"secret xmp" in source
    assert b"PixCam" in source

    assert_says_nothing(encode(decode(source), kind))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("source_kind", ["PNG", "WEBP", "AVIF", "TIFF"])
def test_camera_and_place_of_other_files_stay_behind(source_kind, kind):
    source = saved(photo(), source_kind, exif=exif(6))
    assert b"PixCam" in source

    assert_says_nothing(encode(decode(source), kind))


@pytest.mark.parametrize("kind", KINDS)
def test_text_and_resolution_of_a_png_stay_behind(kind):
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "secret comment")
    text.add_itxt("XML:com.adobe.xmp", "secret xmp")
    source = saved(photo(), "PNG", pnginfo=text, dpi=(300, 300))
    assert b"secret" in source

    written = encode(decode(source), kind)

    assert_says_nothing(written)
    assert opened(written).info.get("dpi") is None


@pytest.mark.parametrize("kind", KINDS)
def test_the_comment_of_a_gif_stays_behind(kind):
    source = saved(Image.fromarray(photo()).quantize(16), "GIF", comment=b"secret comment")
    assert b"secret" in source

    assert_says_nothing(encode(decode(source), kind))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_appended_to_an_image_stays_behind(kind):
    source = camera_jpeg() + b"PK\x03\x04 secret script"

    assert_says_nothing(encode(decode(source), kind))


def assert_says_nothing(data: bytes):
    for word in (b"secret", b"PixCam", b"Exif", b"xmp", b"2026:02:03"):
        assert word not in data
    image = opened(data)
    assert dict(image.getexif()) == {}
    assert not {"exif", "xmp", "XML:com.adobe.xmp", "comment", "Comment"} & image.info.keys()


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF"])
def test_a_lossy_file_is_the_same_scene(kind):
    assert distance(opened(encode(Picture(Image.fromarray(photo()), None), kind, quality=90)), photo()) < 6


def test_a_picture_too_wide_for_webp_is_unencodable_and_says_why():
    wide = Picture(Image.new("RGB", (17_000, 1)), None)

    with pytest.raises(UnencodableImage, match=r"17000 × 1 pixels cannot be written as WEBP .*16383"):
        encode(wide, "WEBP")


def test_a_picture_too_wide_for_jpeg_is_unencodable():
    with pytest.raises(UnencodableImage, match="65501 × 1"):
        encode(Picture(Image.new("RGB", (65_501, 1)), None), "JPEG")


def test_a_picture_too_wide_for_avif_is_unencodable():
    with pytest.raises(UnencodableImage, match="65537 × 1"):
        encode(Picture(Image.new("RGB", (65_537, 1)), None), "AVIF")


def test_the_same_picture_gives_the_same_bytes():
    assert encode(decode(camera_jpeg()), "PNG") == encode(decode(camera_jpeg()), "PNG")


def test_an_encoded_file_is_complete():
    data = encode(Picture(Image.fromarray(photo()), None), "PNG")

    Image.open(io.BytesIO(data)).verify()
    assert data.endswith(b"IEND\xaeB`\x82")
