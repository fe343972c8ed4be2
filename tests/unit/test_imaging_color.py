"""A profile or another declaration defines the colours of a file. Results keep or convert these colours correctly.

`color_math` computes the expected colours from the definitions of the colour spaces. It uses neither lcms nor the code
under test.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from typing import Any

import numpy as np
import pytest
from animations import Frame, apng
from color_math import (
    ADOBE_RGB,
    DISPLAY_P3,
    SRGB,
    Space,
    cmyk_profile,
    converted,
    grey_profile,
    printed,
    rgb_profile,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from images import camera_jpeg, distance, exif, grey_ramp_16_bit, opened, photo, png, saved, wide_gamut_profile
from numpy.typing import NDArray
from PIL import Image, ImageCms

from pixtools.imaging.color import flatten, to_grey, to_srgb
from pixtools.imaging.decoding import decode
from pixtools.imaging.geometry import pad, rotate
from pixtools.imaging.icc_filter import MOST_BYTES, filter_profile
from pixtools.imaging.picture import Picture
from pixtools.operations import get
from pixtools.operations.base.kinds import Encoder

SPACES = {"Display P3": DISPLAY_P3, "Adobe RGB": ADOBE_RGB}
LINEAR = Space(SRGB.primaries, (1.0,))
BEST = {
    "jpg": {"quality": 95},
    "png": {},
    "webp": {"lossless": True},
    "avif": {"quality": 95},
}


def colours(mode: str = "RGB") -> np.ndarray:
    """Return sixteen colours as uint8 (64, 64, C). In every colour space of these tests, the colours lie in sRGB."""
    rng = np.random.default_rng(3)
    tiles = rng.integers(70, 190, (4, 4, 3), dtype=np.uint8).repeat(16, axis=0).repeat(16, axis=1)
    if mode == "RGB":
        return tiles
    return np.dstack([tiles, np.linspace(0, 255, 64, dtype=np.uint8)[None, :].repeat(64, axis=0)])


def as_srgb(pixels: Any, space: Space) -> NDArray[np.float64]:
    """Convert pixels from a colour space to sRGB. The values are from 0 to 255 before and after the conversion."""
    return 255 * converted(np.asarray(pixels) / 255, space, SRGB)


def encoded(name: str, picture: Picture, **params: object) -> Image.Image:
    operation = get(name)
    assert isinstance(operation, Encoder)
    return opened(operation.encode(picture, operation.params(**BEST[name], **params), 0).data)


@pytest.mark.parametrize("name", BEST)
@pytest.mark.parametrize("space", SPACES)
def test_wide_gamut_colours_are_kept_with_their_profile(space, name):
    icc = rgb_profile(SPACES[space])
    picture = decode(saved(colours(), "PNG", icc_profile=icc))

    image = encoded(name, picture)

    assert image.info["icc_profile"] == icc
    assert distance(image, colours()) < 4


@pytest.mark.parametrize("name", BEST)
@pytest.mark.parametrize("space", SPACES)
def test_wide_gamut_colours_are_converted_to_srgb(space, name):
    picture = decode(saved(colours(), "PNG", icc_profile=rgb_profile(SPACES[space])))
    expected = as_srgb(colours(), SPACES[space])

    image = encoded(name, picture, color="srgb")

    assert "icc_profile" not in image.info
    assert distance(image, expected) < (0.7 if name in ("png", "webp") else 4)
    assert distance(image, colours()) > 6


@pytest.mark.parametrize("source", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF", "HEIF"])
def test_the_profile_is_read_from_every_format(source):
    best = {"WEBP": {"lossless": True}, "HEIF": {"quality": 95, "chroma": 444}, "AVIF": {"subsampling": "4:4:4"}}
    data = saved(colours(), source, icc_profile=wide_gamut_profile(), **best.get(source, {}))

    assert distance(to_srgb(decode(data)).image, as_srgb(colours(), DISPLAY_P3)) < 4


def test_a_conversion_leaves_alpha_unchanged():
    original = colours("RGBA")

    picture = to_srgb(Picture.still(Image.fromarray(original), wide_gamut_profile()))

    pixels = np.asarray(picture.image)
    assert (picture.mode, picture.icc) == ("RGBA", None)
    assert np.array_equal(pixels[..., 3], original[..., 3])
    assert distance(pixels[..., :3], as_srgb(original[..., :3], DISPLAY_P3)) < 0.7


def test_colours_outside_srgb_are_clipped_and_neutral_ones_are_kept():
    pixels = np.array([[[0, 255, 0], [255, 255, 255], [0, 0, 0], [128, 128, 128]]], np.uint8)

    found = np.asarray(to_srgb(Picture.still(Image.fromarray(pixels), wide_gamut_profile())).image)

    assert np.abs(found.astype(int) - [[[0, 255, 0], [255, 255, 255], [0, 0, 0], [128, 128, 128]]]).max() <= 1


def test_every_frame_is_converted():
    frames = tuple(Image.fromarray(colours()[:, ::turn]) for turn in (1, -1))

    picture = to_srgb(Picture(frames, wide_gamut_profile(), durations=(50, 50)))

    assert distance(picture.frames[1], as_srgb(colours()[:, ::-1], DISPLAY_P3)) < 0.7
    assert picture.durations == (50, 50)


def test_an_animation_keeps_its_profile():
    layers = [Frame(colours()), Frame(colours()[::-1])]
    chunk = (b"iCCP", b"x\0\0" + zlib.compress(wide_gamut_profile()))

    picture = decode(apng(layers, colour=2, shared=(chunk,)))

    assert picture.icc == wide_gamut_profile()
    assert len(picture.frames) == 2


ORANGE = "#c08040"


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize(
    "changed",
    [
        pytest.param(lambda picture: pad(picture, (200, 200), ORANGE), id="padding"),
        pytest.param(lambda picture: rotate(picture, 30, ORANGE), id="corners"),
        pytest.param(lambda picture: flatten(rotate(picture, 30, None), ORANGE), id="transparency"),
    ],
)
def test_a_background_has_the_requested_colour_whatever_the_profile(space, changed):
    picture = changed(Picture.still(Image.fromarray(colours()), rgb_profile(SPACES[space])))

    corner = as_srgb(np.asarray(picture.image)[0, 0], SPACES[space])

    assert picture.icc == rgb_profile(SPACES[space])
    assert np.abs(corner - (0xC0, 0x80, 0x40)).max() < 2


# Grey


@pytest.mark.parametrize("mode", ["L", "LA"])
def test_a_grey_profile_is_kept_or_converted(mode):
    original = Image.fromarray(photo()).convert(mode)
    data = saved(original, "PNG", icc_profile=grey_profile(1.0))

    picture = decode(data)

    assert picture.icc == grey_profile(1.0)
    converted = to_srgb(picture)
    assert (converted.mode, converted.icc) == (mode, None)
    expected = 255 * SRGB.stored(np.asarray(original.getchannel(0)) / 255)
    assert distance(converted.image.getchannel(0), expected) < 0.7


def test_the_profile_of_16_bit_grey_is_kept():
    icc = grey_profile(1.0)
    compressed = zlib.compress(icc)

    assert decode(grey_ramp_16_bit(extra=((b"iCCP", b"x\0\0" + compressed),))).icc == icc


@pytest.mark.parametrize("mode", ["L", "LA"])
def test_grey_with_an_rgb_profile_is_converted_and_stays_grey(mode):
    original = Image.fromarray(photo()).convert(mode)

    picture = decode(saved(original, "PNG", icc_profile=rgb_profile(LINEAR)))

    assert (picture.mode, picture.icc) == (mode, None)
    expected = 255 * SRGB.stored(np.asarray(original.getchannel(0)) / 255)
    assert distance(picture.image.getchannel(0), expected) < 0.7


@pytest.mark.parametrize("mode", ["L", "LA"])
@pytest.mark.parametrize("name", BEST)
def test_a_grey_profile_is_written_only_if_the_format_stores_grey(name, mode):
    """Browsers ignore a grey profile in a file with RGB pixels."""
    original = Image.fromarray(photo()).convert(mode)  # in mode LA, all pixels are opaque
    picture = decode(saved(original, "PNG", icc_profile=grey_profile(1.0)))

    image = encoded(name, picture)

    is_kept = name == "png" or (name, mode) == ("avif", "L") or name == "jpg"
    assert image.info.get("icc_profile") == (grey_profile(1.0) if is_kept else None)
    shown = np.asarray(original.getchannel(0)) if is_kept else np.asarray(to_srgb(picture).image.getchannel(0))
    assert distance(image.convert("RGB").getchannel(0), shown) < (0.1 if name in ("png", "webp") else 4)


@pytest.mark.parametrize("kind", ["WEBP", "AVIF"])
@pytest.mark.parametrize("with_colours", [0, 1, 2])
def test_a_grey_profile_is_dropped_if_one_frame_has_colours(kind, with_colours):
    frames = [Image.new("RGB", (16, 16), (90, 90, 90)) for _ in range(3)]
    for at, frame in enumerate(frames):
        frame.paste((40 * at,) * 3, (0, 0, 8, 8))
    frames[with_colours].paste((200, 0, 0), (8, 8, 16, 16))
    fine = {"lossless": True} if kind == "WEBP" else {"quality": 100, "subsampling": "4:4:4"}
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:], icc_profile=grey_profile(1.0), **fine)

    picture = decode(data)

    assert picture.icc is None
    assert picture.share()[0].shape[:3] == (3, 16, 16)
    for found, frame in zip(picture.frames, frames, strict=True):
        assert distance(found.convert("RGB"), frame) < 3


@pytest.mark.parametrize("order", [1, -1])
def test_a_grey_profile_is_dropped_if_one_layer_has_colours(order):
    grey, red = np.full((8, 8, 3), 90, np.uint8), np.full((8, 8, 3), (200, 0, 0), np.uint8)
    chunk = (b"iCCP", b"x\0\0" + zlib.compress(grey_profile(1.0)))

    picture = decode(apng([Frame(grey), Frame(red)][::order], colour=2, shared=(chunk,)))

    assert picture.icc is None
    assert [np.asarray(frame)[0, 0].tolist() for frame in picture.frames] == [[90] * 3, [200, 0, 0]][::order]


def test_to_grey_applies_the_profile_first():
    picture = to_grey(Picture.still(Image.fromarray(colours()), wide_gamut_profile()))

    expected = as_srgb(colours(), DISPLAY_P3) @ (0.299, 0.587, 0.114)
    assert (picture.mode, picture.icc) == ("L", None)
    assert distance(picture.image, expected) < 1


def test_16_bit_grey_in_which_0_is_white_is_inverted():
    ramp = (np.arange(256, dtype=np.uint16) * 257)[None]
    data = bytearray(saved(Image.fromarray(ramp), "TIFF"))
    tag = data.index(struct.pack("<HHI", 262, 3, 1))
    data[tag + 8] = 0

    assert np.asarray(decode(bytes(data)).image).tolist() == [list(range(255, -1, -1))]


def test_16_bit_grey_and_alpha_keep_their_upper_8_bits():
    rows = b"\0" + struct.pack(">4H", 0x1234, 0x8000, 0xFFFF, 0)
    icc = (b"iCCP", b"x\0\0" + zlib.compress(grey_profile(1.0)))

    plain = decode(png(2, 1, depth=16, colour=4, rows=rows))
    described = decode(png(2, 1, depth=16, colour=4, rows=rows, extra=(icc,)))

    assert np.asarray(plain.image.convert("LA")).tolist() == [[[0x12, 0x80], [0xFF, 0]]]
    assert (described.mode, described.icc) == ("LA", grey_profile(1.0))
    assert np.asarray(described.image).tolist() == [[[0x12, 0x80], [0xFF, 0]]]


def test_a_grey_profile_of_rgb_pixels_is_dropped():
    assert decode(saved(photo(), "PNG", icc_profile=grey_profile(1.0))).icc is None


# CMYK and LAB


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_becomes_the_rgb_of_its_print(kind):
    original = Image.fromarray(photo())

    picture = decode(saved(original.convert("CMYK"), kind, quality=95))

    assert picture.image.mode == "RGB"
    assert distance(picture.image, original) < 6


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_is_converted_by_its_profile(kind):
    corners = np.array(list(np.ndindex(2, 2, 2, 2)), np.uint8)  # (16, 4)
    patches = (corners * 255).reshape(4, 4, 4).repeat(16, axis=0).repeat(16, axis=1)
    image = Image.fromarray(patches, "CMYK")

    picture = decode(saved(image, kind, quality=100, icc_profile=cmyk_profile()))

    expected = 255 * printed(patches / 255)
    assert (picture.mode, picture.icc) == ("RGB", None)
    assert distance(picture.image, expected) < 3
    assert distance(image.convert("RGB"), expected) > 12


def test_the_cmyk_of_a_jpeg_without_adobe_marker_is_not_inverted():
    original = Image.fromarray(photo())
    inverted = Image.fromarray(255 - np.asarray(original.convert("CMYK")), "CMYK")
    data = saved(inverted, "JPEG", quality=95)
    marker = data.index(b"\xff\xee")
    plain = data[:marker] + data[marker + 2 + int.from_bytes(data[marker + 2 : marker + 4], "big") :]

    assert distance(decode(plain).image, original) < 6


def test_ycck_becomes_the_rgb_of_its_print():
    original = Image.fromarray(photo())
    cmyk = np.asarray(original.convert("CMYK")).copy()
    cmyk[..., 3] = 40
    ink = Image.fromarray(np.ascontiguousarray(cmyk[..., :3])).convert("YCbCr")
    stored = np.dstack([255 - np.asarray(ink), cmyk[..., 3]])
    data = bytearray(saved(Image.fromarray(stored, "CMYK"), "JPEG", quality=95))
    data[data.index(b"Adobe") + 11] = 2  # the transform byte: 2 means YCCK

    picture = decode(bytes(data))

    expected = (255.0 - cmyk[..., :3]) * (255 - 40) / 255
    assert distance(picture.image, expected) < 6


def test_cmyk_with_an_invalid_profile_becomes_rgb():
    original = Image.fromarray(photo())

    picture = decode(saved(original.convert("CMYK"), "JPEG", quality=95, icc_profile=b"no profile" * 20))

    assert distance(picture.image, original) < 6
    assert picture.icc is None


def test_the_ycbcr_of_a_tiff_becomes_rgb():
    original = Image.fromarray(photo())

    picture = decode(saved(original.convert("YCbCr"), "TIFF"))

    assert picture.image.mode == "RGB"
    assert distance(picture.image, original) < 3


def test_the_lab_of_a_tiff_becomes_rgb():
    original = Image.fromarray(photo())
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")

    picture = decode(saved(ImageCms.profileToProfile(original, srgb, lab, outputMode="LAB"), "TIFF"))

    assert picture.image.mode == "RGB"
    assert distance(picture.image, original) < 3


def test_the_profile_of_rgb_pixels_is_kept():
    assert decode(camera_jpeg()).icc == wide_gamut_profile()


@pytest.mark.parametrize("mode", ["P", "1"])
def test_an_rgb_profile_of_a_palette_is_kept_and_of_a_bilevel_image_is_dropped(mode):
    data = saved(Image.fromarray(photo()).convert(mode), "PNG", icc_profile=wide_gamut_profile())

    assert decode(data).icc == (wide_gamut_profile() if mode == "P" else None)


def test_an_invalid_profile_is_dropped():
    assert decode(saved(photo(), "JPEG", icc_profile=b"no profile")).icc is None


def test_an_rgb_profile_of_lab_pixels_is_dropped():
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    image = ImageCms.profileToProfile(Image.fromarray(photo()), srgb, lab, outputMode="LAB")

    assert decode(saved(image, "TIFF", icc_profile=wide_gamut_profile())).icc is None


@pytest.mark.parametrize("name", BEST)
def test_a_profile_that_is_damaged_after_its_header_is_dropped(name):
    broken = wide_gamut_profile()[:200] + bytes(len(wide_gamut_profile()) - 200)

    picture = decode(saved(photo(), "JPEG", icc_profile=broken))

    assert picture.icc is None
    for color in ("keep", "srgb"):
        assert "icc_profile" not in encoded(name, picture, color=color).info


# Other data in a profile


def with_tags(icc: bytes, tags: dict[bytes, bytes]) -> bytes:
    """Add tags and a profile id to a profile, and return the new profile."""
    count = int.from_bytes(icc[128:132], "big")
    added = 12 * len(tags)
    table = b""
    for at in range(132, 132 + 12 * count, 12):
        name, start, length = struct.unpack_from(">4sII", icc, at)
        table += struct.pack(">4sII", name, start + added, length)
    body = icc[132 + 12 * count :]
    for name, content in tags.items():
        table += struct.pack(">4sII", name, 132 + len(table[: 12 * count]) + added + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    rest = struct.pack(">I", count + len(tags)) + table + body
    return struct.pack(">I", 128 + len(rest)) + icc[4:84] + b"an identity here" + bytes(28) + rest


def hidden_file() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("secret.txt", "secret")
    return out.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF", "HEIF"])
def test_only_the_colour_tags_of_a_profile_are_kept(kind):
    icc = wide_gamut_profile()
    secret = {b"mmod": b"mmod\0\0\0\0secret serial number", b"targ": b"text\0\0\0\0secret numbers\0"}
    data = saved(colours(), kind, icc_profile=with_tags(icc, secret) + hidden_file())

    found = decode(data).icc

    assert found is not None
    assert (found[:84], found[100:]) == (icc[:84], icc[100:])
    assert found[84:100] not in (bytes(16), b"an identity here")


@pytest.mark.parametrize("name", BEST)
def test_an_archive_appended_to_a_profile_is_removed(name):
    data = saved(colours(), "PNG", icc_profile=wide_gamut_profile() + hidden_file())
    operation = get(name)
    assert isinstance(operation, Encoder)

    made = operation.encode(decode(data), operation.params(strip="none"), 0).data

    assert not zipfile.is_zipfile(io.BytesIO(made))
    assert opened(made).info["icc_profile"] == wide_gamut_profile()


def test_a_long_text_in_a_profile_is_removed():
    icc = wide_gamut_profile().replace(b"cprt", b"xxxx", 1)

    found = filter_profile(with_tags(icc, {b"cprt": b"text\0\0\0\0" + bytes(10_000)}))

    assert found is not None
    assert len(found) < len(icc)
    assert distance(as_lcms_shows(found), as_lcms_shows(icc)) == 0


def as_lcms_shows(icc: bytes) -> NDArray[Any]:
    return np.asarray(to_srgb(Picture.still(Image.fromarray(colours()), icc)).image)


@pytest.mark.parametrize("space", [ADOBE_RGB, DISPLAY_P3, SRGB, LINEAR])
def test_a_profile_without_other_data_is_unchanged(space):
    for icc in (rgb_profile(space), grey_profile(1.8), cmyk_profile()):
        assert filter_profile(icc) == icc
        assert filter_profile(icc + b"more") == icc


@settings(max_examples=300)
@given(damage=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=8), length=st.integers(0, 700))
def test_a_damaged_profile_is_filtered_or_dropped(damage, length):
    icc = bytearray(wide_gamut_profile()[:length])
    for at, value in damage:
        icc[at % max(1, len(icc)) : at % max(1, len(icc)) + 1] = bytes([value])

    found = filter_profile(bytes(icc))

    assert found is None or len(found) <= len(icc) + 3 * 100
    assert found is None or filter_profile(found) == found


def test_a_profile_with_overlapping_tags_is_dropped():
    names = [b"A2B0", b"A2B1", b"A2B2", b"B2A0", b"B2A1", b"B2A2", b"gamt"]
    body = bytes(100_000)
    table = b"".join(struct.pack(">4sII", name, 300 + at, len(body) - 200) for at, name in enumerate(names))
    head = struct.pack(">I", 132 + len(table) + len(body)) + wide_gamut_profile()[4:128]

    assert filter_profile(head + struct.pack(">I", len(names)) + table + body) is None


def test_pixels_whose_profile_is_too_large_to_be_written_become_srgb():
    large = with_tags(wide_gamut_profile(), {b"B2A0": b"mft2" + bytes(MOST_BYTES)})

    picture = decode(saved(colours(), "TIFF", icc_profile=large))

    assert picture.icc is None
    assert distance(picture.image, as_srgb(colours(), DISPLAY_P3)) < 0.7


# Colours that are declared without a profile


def looks_like_p3(picture: Picture) -> bool:
    return distance(to_srgb(picture).image.convert("RGB"), as_srgb(colours(), DISPLAY_P3)) < 4


def with_chunks(*extra: tuple[bytes, bytes]) -> bytes:
    rows = b"".join(b"\0" + row.tobytes() for row in colours())
    return png(64, 64, depth=8, colour=2, rows=rows, extra=extra)


CHRM_P3 = struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
CHRM_SRGB = struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)


@pytest.mark.parametrize(
    "extra",
    [
        pytest.param([(b"cICP", bytes([12, 13, 0, 1]))], id="cICP"),
        pytest.param([(b"cHRM", CHRM_P3), (b"gAMA", struct.pack(">I", 45455))], id="cHRM and gAMA"),
        pytest.param([(b"cICP", bytes([12, 13, 0, 1])), (b"sRGB", b"\0")], id="cICP before sRGB"),
    ],
)
def test_a_png_that_declares_display_p3_in_chunks_is_read_as_display_p3(extra):
    picture = decode(with_chunks(*extra))

    assert looks_like_p3(picture)
    assert encoded("webp", picture).info["icc_profile"] == picture.icc


@pytest.mark.parametrize(
    "extra",
    [
        pytest.param([], id="nothing"),
        pytest.param([(b"sRGB", b"\0")], id="sRGB"),
        pytest.param([(b"gAMA", struct.pack(">I", 45455)), (b"cHRM", CHRM_SRGB)], id="gAMA and cHRM of sRGB"),
        pytest.param([(b"sRGB", b"\0"), (b"cHRM", CHRM_P3)], id="sRGB before cHRM"),
        pytest.param([(b"cICP", bytes([1, 13, 0, 1]))], id="cICP of sRGB"),
        pytest.param([(b"cHRM", bytes(32))], id="primaries of zero"),
        pytest.param([(b"cHRM", b"\xff" * 32)], id="primaries out of range"),
        pytest.param([(b"cHRM", CHRM_SRGB[:8] * 4)], id="primaries equal to white"),
        pytest.param([(b"gAMA", bytes(4))], id="a gamma of zero"),
        pytest.param([(b"gAMA", bytes([0, 0, 0, 1]))], id="a gamma out of range"),
    ],
)
def test_a_png_is_srgb_if_it_declares_that_or_nothing_valid(extra):
    assert decode(with_chunks(*extra)).icc is None


def test_the_gamma_of_a_png_is_applied():
    picture = to_srgb(decode(with_chunks((b"gAMA", struct.pack(">I", 100_000)))))

    assert distance(picture.image, as_srgb(colours(), LINEAR)) < 0.7


def test_an_avif_with_the_code_points_of_display_p3_is_read_as_display_p3():
    data = saved(colours(), "AVIF", quality=95, subsampling="4:4:4")
    at = data.index(b"colrnclx") + 8

    assert decode(data).icc is None
    assert looks_like_p3(decode(data[:at] + struct.pack(">H", 12) + data[at + 2 :]))


def test_a_heic_with_the_code_points_of_display_p3_is_read_as_display_p3():
    points = {"color_primaries": 12, "transfer_characteristics": 13, "matrix_coefficients": 6, "full_range_flag": 1}

    assert decode(saved(colours(), "HEIF", quality=95, chroma=444)).icc is None
    assert looks_like_p3(decode(saved(colours(), "HEIF", quality=95, chroma=444, **points)))


@pytest.mark.parametrize(("signal", "shown"), [(148, 255), (130, 188), (77, 63), (0, 0)])
def test_the_reference_white_of_pq_becomes_white(signal, shown):
    """In SMPTE ST 2084, signal 0.581 means 203 cd/m² (white), 0.508 means 100 cd/m², and 0.302 means 10 cd/m²."""
    pixels = np.full((8, 8, 3), signal, np.uint8)
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    data = png(8, 8, depth=8, colour=2, rows=rows, extra=((b"cICP", bytes([9, 16, 0, 1])),))

    assert abs(int(np.asarray(to_srgb(decode(data)).image)[0, 0, 0]) - shown) <= 3


def test_adobe_rgb_is_recognised_by_the_exif_tag_alone():
    tags = exif()
    tags.get_ifd(0x8769)[0xA005] = {1: "R03"}
    data = saved(colours(), "JPEG", quality=95, subsampling=0, exif=tags)

    assert distance(to_srgb(decode(data)).image, as_srgb(colours(), ADOBE_RGB)) < 4
