"""Decoding gives upright 8-bit pixels in the mode L, LA, RGB or RGBA, or an error that describes the defect."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from animations import Frame, apng
from hypothesis import given
from hypothesis import strategies as st
from images import (
    LIMITS,
    camera_jpeg,
    container,
    distance,
    exif,
    grey_ramp_16_bit,
    grey_tiff,
    photo,
    png,
    saved,
    stored,
    truncated_jpeg,
    wide_gamut_profile,
)
from PIL import Image

from pixtools.errors import CorruptImage, ImageTooLarge, UnsupportedType
from pixtools.imaging.decoding import decode
from pixtools.imaging.formats import MEDIA_TYPES
from pixtools.imaging.header import inspect
from pixtools.imaging.picture import Picture

LOSSLESS = {"PNG": {}, "TIFF": {}, "WEBP": {"lossless": True}}
LOSSY = {"JPEG": {"quality": 95, "subsampling": 0}, "AVIF": {"quality": 90, "subsampling": "4:4:4", "speed": 10}}


@pytest.mark.parametrize("kind", LOSSLESS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_lossless_pixels_are_decoded_upright_and_exact(kind, orientation):
    upright = photo()
    data = saved(stored(upright, orientation), kind, exif=exif(orientation), **LOSSLESS[kind])

    assert np.array_equal(decode(data).image, upright)


@pytest.mark.parametrize("kind", LOSSY)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_lossy_pixels_are_decoded_upright(kind, orientation):
    upright = photo()
    data = saved(stored(upright, orientation), kind, exif=exif(orientation), **LOSSY[kind])

    assert distance(decode(data).image, upright) < 6
    assert distance(decode(data).image, upright[:, ::-1]) > 20


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_invalid_orientation_is_ignored(orientation):
    upright = photo()

    assert np.array_equal(decode(saved(upright, "PNG", exif=exif(orientation))).image, upright)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_the_four_modes_of_a_picture_are_decoded_unchanged(mode):
    original = Image.fromarray(photo()).convert(mode)
    if "A" in mode:
        original.putalpha(Image.linear_gradient("L").resize(original.size))

    picture = decode(saved(original, "PNG"))

    assert picture.image.mode == mode
    assert np.array_equal(picture.image, original)


def test_a_bilevel_image_becomes_grey():
    original = Image.fromarray(photo()).convert("1")

    picture = decode(saved(original, "PNG"))

    assert picture.image.mode == "L"
    assert np.array_equal(np.asarray(picture.image) > 127, np.asarray(original))


def test_a_palette_image_becomes_rgb():
    original = Image.fromarray(photo()).quantize(16)

    picture = decode(saved(original, "PNG"))

    assert picture.image.mode == "RGB"
    assert np.array_equal(picture.image, original.convert("RGB"))


def test_the_transparent_colour_of_a_palette_becomes_alpha():
    original = Image.new("P", (2, 1))
    original.putpalette([200, 0, 0, 0, 200, 0])
    original.putpixel((1, 0), 1)

    picture = decode(saved(original, "PNG", transparency=1))

    assert picture.image.mode == "RGBA"
    assert np.asarray(picture.image).tolist() == [[[200, 0, 0, 255], [0, 200, 0, 0]]]


def test_the_transparent_colour_of_an_rgb_png_becomes_alpha():
    shade = (b"tRNS", bytes([0, 1, 0, 2, 0, 3]))
    data = png(2, 1, depth=8, colour=2, rows=bytes([0, 9, 8, 7, 1, 2, 3]), extra=(shade,))

    assert np.asarray(decode(data).image).tolist() == [[[9, 8, 7, 255], [1, 2, 3, 0]]]


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_the_transparent_value_of_a_grey_png_is_scaled_with_its_depth(depth):
    white, per_byte = (1 << depth) - 1, 8 // depth
    row = sum(white << depth * at for at in range(0, per_byte, 2)) if depth < 8 else 255  # every second pixel is white
    data = png(per_byte, 1, depth=depth, colour=0, rows=bytes([0, row]), extra=((b"tRNS", struct.pack(">H", white)),))

    alpha = np.asarray(decode(data).image.convert("RGBA"))[0, :, 3]

    assert alpha.tolist() == ([255, 0] * (per_byte // 2) or [0])


def test_the_transparent_colour_of_16_bit_rgb_is_compared_by_all_bits():
    pixels = [(1234, 1234, 1234), (1235, 1234, 1234), (1234, 1234, 1234 + 256), (210, 210, 210)]
    rows = b"\0" + b"".join(struct.pack(">3H", *pixel) for pixel in pixels)
    data = png(4, 1, depth=16, colour=2, rows=rows, extra=((b"tRNS", struct.pack(">3H", *pixels[0])),))

    picture = decode(data)

    assert np.asarray(picture.image).tolist() == [[[4, 4, 4, 0], [4, 4, 4, 255], [4, 4, 5, 255], [0, 0, 0, 255]]]
    assert picture.image.info == {}


def test_the_transparent_colour_of_a_16_bit_animation_is_compared_by_all_bits():
    color, other = (1234, 1234, 1234), (1235, 1234, 1234)
    frames = [np.array([pair], ">u2").view(np.uint8) for pair in ((color, other), (other, color))]
    transparent = (b"tRNS", struct.pack(">3H", *color))
    data = apng([Frame(frame.reshape(1, 2, 6)) for frame in frames], colour=2, depth=16, shared=(transparent,))

    alphas = [np.asarray(frame)[0, :, 3].tolist() for frame in decode(data).frames]

    assert alphas == [[0, 255], [255, 0]]


def test_16_bit_grey_is_scaled_and_not_clipped():
    picture = decode(grey_ramp_16_bit())

    assert picture.image.mode == "L"
    assert np.asarray(picture.image).tolist() == [list(range(256))]


def test_16_bit_grey_is_rounded_to_the_nearest_8_bit_value():
    row = np.array([0, 128, 129, 385, 386, 65406, 65407], dtype=">u2").tobytes()

    picture = decode(png(7, 1, depth=16, colour=0, rows=b"\0" + row))

    assert np.asarray(picture.image).tolist() == [[0, 0, 1, 1, 2, 254, 255]]


def test_16_bit_grey_with_a_transparent_value_is_scaled_and_not_clipped():
    data = grey_ramp_16_bit(extra=((b"tRNS", struct.pack(">H", 257 * 100)),))

    pixels = np.asarray(decode(data).image.convert("RGBA"))[0]

    assert pixels[:, 0].tolist() == list(range(256))
    assert pixels[100, 3] == 0
    assert pixels[101, 3] == 255


def test_16_bit_rgb_keeps_its_upper_8_bits():
    rows = b"\0" + struct.pack(">6H", 0x1234, 0x8000, 0xFFFF, 0, 257, 65535)

    picture = decode(png(2, 1, depth=16, colour=2, rows=rows))

    assert np.asarray(picture.image).tolist() == [[[18, 128, 255], [0, 1, 255]]]


def test_32_bit_grey_of_a_tiff_is_scaled_from_black_to_white():
    ramp = np.array([[0, 32768, 65535]], dtype=np.int32)

    assert np.asarray(decode(saved(Image.fromarray(ramp), "TIFF")).image).tolist() == [[0, 128, 255]]


@pytest.mark.parametrize("white", [1.0, 1000.0])
def test_floating_point_grey_of_a_tiff_is_scaled_from_black_to_white(white):
    ramp = np.array([[0, 0.5, 1]], dtype=np.float32) * white

    assert np.asarray(decode(saved(Image.fromarray(ramp), "TIFF")).image).tolist() == [[0, 128, 255]]


def test_floating_point_grey_is_scaled_by_its_finite_values():
    wild = np.array([[np.nan, np.inf, -np.inf, -5, 0.5]], dtype=np.float32)

    assert np.asarray(decode(saved(Image.fromarray(wild), "TIFF")).image).tolist() == [[0, 255, 0, 0, 128]]


def test_floating_point_grey_without_finite_values_is_black():
    nothing = np.full((1, 2), np.nan, np.float32)

    assert np.asarray(decode(saved(Image.fromarray(nothing), "TIFF")).image).tolist() == [[0, 0]]


def test_floating_point_grey_in_which_0_is_white_is_inverted():
    data = saved(Image.fromarray(np.array([[0, 0.5, 1]], np.float32)), "TIFF")
    inverted = data.replace(struct.pack("<HHIH", 262, 3, 1, 1), struct.pack("<HHIH", 262, 3, 1, 0))

    assert np.asarray(decode(inverted).image).tolist() == [[255, 128, 0]]


def test_unsigned_32_bit_grey_may_exceed_the_signed_range():
    data = saved(Image.fromarray(np.array([[0, 2**31 - 1, -1]], np.int32)), "TIFF")
    unsigned = data.replace(struct.pack("<HHIH", 339, 3, 1, 2), struct.pack("<HHIH", 339, 3, 1, 1))

    assert unsigned != data
    assert np.asarray(decode(unsigned).image).tolist() == [[0, 127, 255]]


@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_signed_16_bit_grey_is_scaled_from_black_to_white(byte_order):
    data = grey_tiff(np.array([[-5, 0, 16384, 32767]], byte_order + "i2"))

    assert np.asarray(decode(data).image).tolist() == [[0, 0, 128, 255]]


def test_a_decoded_image_has_no_info_of_its_file():
    assert decode(camera_jpeg()).image.info == {}


@pytest.mark.parametrize("kind", ["TIFF", "MPO"])
def test_the_decoded_image_of_a_file_with_pages_has_only_one(kind):
    pages = saved(photo(), kind, save_all=True, append_images=[Image.new("RGB", (9, 9))])

    image = decode(pages).image

    assert getattr(image, "n_frames", 1) == 1
    assert image.size == (96, 64)


def test_a_palette_png_without_its_palette_is_corrupt():
    with pytest.raises(CorruptImage):
        decode(png(1, 1, depth=8, colour=3, rows=b"\0\0"))


def test_a_truncated_jpeg_is_corrupt():
    with pytest.raises(CorruptImage, match="truncated"):
        decode(truncated_jpeg())


@pytest.mark.parametrize("kind", MEDIA_TYPES)
def test_half_of_a_file_is_corrupt(kind):
    whole = saved(photo(300, 200), kind)

    with pytest.raises(CorruptImage):
        decode(whole[: len(whole) // 2])


def test_a_wrong_checksum_is_corrupt():
    data = bytearray(saved(photo(), "PNG"))
    data[data.index(b"IDAT") - 20 + 60] ^= 0xFF

    with pytest.raises(CorruptImage):
        decode(bytes(data))


def test_the_beginning_of_an_avif_alone_is_corrupt():
    with pytest.raises(CorruptImage):
        decode(container(b"avif", b"mif1"))


def test_a_pdf_is_of_an_unsupported_type():
    with pytest.raises(UnsupportedType):
        decode(b"%PDF-1.7")


def test_the_error_of_a_corrupt_image_contains_no_memory_address():
    with pytest.raises(CorruptImage) as caught:
        decode(b"\x89PNG\r\n\x1a\n" + b"garbage" * 10)

    assert "0x" not in caught.value.detail


WHOLE = {kind: saved(photo(40, 30), kind) for kind in MEDIA_TYPES}


@given(
    kind=st.sampled_from(sorted(MEDIA_TYPES)),
    damage=st.lists(st.tuples(st.integers(0, 100_000), st.integers(0, 255)), min_size=1, max_size=20),
)
def test_damaged_bytes_give_a_picture_or_a_pixtools_error(kind, damage):
    data = bytearray(WHOLE[kind])
    for at, value in damage:
        data[16 + at % (len(data) - 16)] = value

    try:
        inspect(io.BytesIO(data), LIMITS)  # PixTools inspects every file before decoding
        picture = decode(bytes(data))
    except (CorruptImage, UnsupportedType, ImageTooLarge):
        return
    assert picture.image.mode in ("L", "LA", "RGB", "RGBA")


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_a_still_is_shared_as_an_array_without_loss(mode):
    picture = Picture.still(Image.fromarray(photo()).convert(mode), wide_gamut_profile())

    pixels, description = picture.share()
    back = Picture.shared(pixels, description)

    assert pixels.dtype == np.uint8
    assert pixels.shape == (1, 64, 96, len(mode))
    assert (back.mode, back.icc) == (mode, picture.icc)
    assert np.array_equal(back.image, picture.image)
