"""Decoding and encoding keep 16-bit pixels."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from animations import Frame, apng
from images import exif, opened, png, stored, wide_gamut_profile
from PIL import Image, ImageCms

from pixtools.imaging.decoding import decode
from pixtools.imaging.picture import Picture
from pixtools.imaging.png_chunks import SIGNATURE, chunk, chunks
from pixtools.operations.png import PNG

COLOR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}


def gradient(channels, height=37, width=53):
    """Return a gradient with some noise, as uint16 (H, W, C). Its values use the low bytes too."""
    y, x, channel = np.mgrid[:height, :width, :channels]
    noise = np.random.default_rng(1).integers(0, 300, (height, width, channels))
    return (x * 1131 + y * 97 + channel * 517 + noise).astype(np.uint16)


def png_16_bit(pixels, extra=()):
    """Return a PNG with 16-bit pixels that are given as uint16 (H, W, C)."""
    height, width, channels = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    return png(width, height, depth=16, colour=COLOR_TYPES[channels], rows=rows, extra=extra)


def read(data):
    """Decode a 16-bit PNG as the PNG specification says. Return the pixels, and a dictionary of the chunks by type."""
    found = list(chunks(data))
    width, height, depth, color = struct.unpack(">IIBB", found[0][1][:10])
    assert depth == 16
    channels = {kind: count for count, kind in COLOR_TYPES.items()}[color]
    raw = zlib.decompress(b"".join(body for kind, body in found if kind == b"IDAT"))
    size, stride = 2 * channels, 2 * channels * width
    above, rows = bytes(stride), []
    for at in range(0, len(raw), stride + 1):
        row = bytearray(raw[at + 1 : at + 1 + stride])
        for i in range(stride):
            a, b, c = (row[i - size] if i >= size else 0), above[i], (above[i - size] if i >= size else 0)
            paeth = min((abs(b - c), 0, a), (abs(a - c), 1, b), (abs(a + b - 2 * c), 2, c))[2]
            row[i] = (row[i] + (0, a, b, (a + b) // 2, paeth)[raw[at]]) & 255
        rows.append(row)
        above = row
    assert len(rows) == height
    return np.frombuffer(b"".join(rows), ">u2").reshape(height, width, channels), dict(found)


def written(picture, **params):
    return PNG.run(picture, PNG.params(**params))


@pytest.mark.parametrize("effort", ["auto", "fast", "small"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bit_pixels_are_kept_by_decoding_sharing_and_encoding(channels, effort):
    pixels = gradient(channels)
    shared, description = decode(png_16_bit(pixels), high_bit_depth=True).share()
    assert shared.dtype == np.uint16
    picture = Picture.shared(shared, description)
    assert (picture.mode, picture.size) == (["L", "LA", "RGB", "RGBA"][channels - 1], (53, 37))
    assert (read(written(picture, effort=effort))[0] == pixels).all()


def test_pillow_decodes_the_same_grey_values():
    pixels = gradient(1)
    assert (np.asarray(opened(written(decode(png_16_bit(pixels), high_bit_depth=True)))) == pixels[..., 0]).all()


def test_a_picture_of_several_bands_is_encoded_completely():
    pixels = gradient(1, height=6500, width=100)  # 1.3 MB; the encoder compresses 1 MB (one band) at a time
    assert (np.asarray(opened(written(decode(png_16_bit(pixels), high_bit_depth=True)))) == pixels[..., 0]).all()


def test_the_8_bit_frame_holds_the_rounded_16_bit_values():
    picture = decode(png_16_bit(gradient(3)), high_bit_depth=True)
    assert (np.asarray(picture.image) == np.rint(gradient(3) / 257)).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_the_transparent_colour_of_a_png_becomes_alpha(channels):
    pixels = gradient(channels)
    transparent = pixels[5, 7]
    found, _ = decode(
        png_16_bit(pixels, ((b"tRNS", struct.pack(f">{channels}H", *transparent)),)), high_bit_depth=True
    ).share()
    assert (found[0, ..., :-1] == pixels).all()
    assert (found[0, ..., -1] == np.where((pixels == transparent).all(axis=2), 0, 65535)).all()
    assert found[0, 5, 7, -1] == 0


@pytest.mark.parametrize("orientation", range(1, 9))
def test_16_bit_pixels_are_turned_upright(orientation):
    pixels = gradient(3)
    block = exif(orientation).tobytes().removeprefix(b"Exif\0\0")
    data = png_16_bit(stored(pixels, orientation), ((b"eXIf", block),))
    assert (decode(data, high_bit_depth=True).share()[0][0] == pixels).all()


def test_profile_and_metadata_are_written_as_by_the_8_bit_encoder():
    profile = wide_gamut_profile()
    block = exif().tobytes().removeprefix(b"Exif\0\0")
    extra = ((b"iCCP", b"p\0\0" + zlib.compress(profile)), (b"eXIf", block))
    with_16_bits, plain = (decode(png_16_bit(gradient(3), extra), high_bit_depth=wanted) for wanted in (True, False))
    assert with_16_bits.icc == plain.icc
    kept, expected = read(written(with_16_bits))[1], dict(chunks(written(plain)))
    assert {b"iCCP", b"eXIf"} <= kept.keys()
    assert {kind: body for kind, body in kept.items() if kind not in (b"IHDR", b"IDAT")} == {
        kind: body for kind, body in expected.items() if kind not in (b"IHDR", b"IDAT")
    }


def test_grey_with_an_rgb_profile_is_decoded_to_8_bits():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for channels in (1, 2):
        data = png_16_bit(gradient(channels), ((b"iCCP", b"p\0\0" + zlib.compress(profile)),))
        assert decode(data, high_bit_depth=True).pixels_16 is None


@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_grey_of_a_tiff_is_decoded_to_16_bits(order):
    pixels = gradient(1)
    out = io.BytesIO()
    Image.fromarray(pixels[..., 0].astype("<u2")).save(out, "TIFF", big_endian=order == ">u2")
    assert (decode(out.getvalue(), high_bit_depth=True).share()[0][0] == pixels).all()


def test_the_default_image_of_an_apng_is_not_used_for_its_only_frame():
    samples = gradient(4, 5, 4).astype(">u2").view(np.uint8).reshape(5, 4, 8)
    picture = decode(apng([Frame(samples)], default=255 - samples, depth=16), high_bit_depth=True)
    assert picture.pixels_16 is None
    assert (np.asarray(picture.image) == gradient(4, 5, 4) >> 8).all()


def test_16_bit_values_are_absent_unless_requested_and_in_the_file():
    assert decode(png_16_bit(gradient(3))).pixels_16 is None
    out = io.BytesIO()
    Image.new("RGB", (5, 5)).save(out, "PNG")
    assert decode(out.getvalue(), high_bit_depth=True).pixels_16 is None


def test_a_change_of_pixels_leaves_8_bits():
    picture = decode(png_16_bit(gradient(3)), high_bit_depth=True)
    assert picture.map(Image.Image.copy).pixels_16 is None
    assert opened(written(picture, palette=16)).mode == "P"
    assert opened(written(picture.map(Image.Image.copy))).mode == "RGB"


def test_an_interlaced_png_is_decoded_to_16_bits():
    pixels = gradient(3, height=9, width=11)
    rows = b""
    for top, left, down, right in (
        (0, 0, 8, 8),
        (0, 4, 8, 8),
        (4, 0, 8, 4),
        (0, 2, 4, 4),
        (2, 0, 4, 2),
        (0, 1, 2, 2),
        (1, 0, 2, 1),
    ):
        rows += b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels[top::down, left::right] if len(row))
    header = struct.pack(">IIBBBBB", 11, 9, 16, 2, 0, 0, 1)
    data = SIGNATURE + b"".join(
        chunk(kind, body) for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    )
    assert (decode(data, high_bit_depth=True).share()[0][0] == pixels).all()
