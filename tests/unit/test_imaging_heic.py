"""HEIC is read if pillow-heif is installed. Otherwise, the error says what to install."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pillow_heif
import pytest
from images import LIMITS, container, distance, exif, photo, saved, stored, wide_gamut_profile
from PIL import Image

from pixtools.errors import CorruptImage, ImageTooLarge
from pixtools.imaging.codec_errors import decoding
from pixtools.imaging.codecs import CODECS
from pixtools.imaging.decoding import decode
from pixtools.imaging.formats import HEAD_BYTES, MEDIA_TYPES, sniff
from pixtools.imaging.header import inspect

BEST = {"quality": 95, "chroma": 444}


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(container(b"heic", b"heic"), id="by its main brand"),
        pytest.param(container(b"heix", b"mif1", b"heix"), id="with 10 bits"),
        pytest.param(container(b"heic", b"mif1", b"heic"), id="sharing a brand with AVIF"),
        pytest.param(container(b"mif1", b"mif1", b"heic"), id="with the shared brand as its main brand"),
    ],
)
def test_heic_is_identified_by_its_brands(head):
    assert sniff(head[:HEAD_BYTES]) == "HEIF"


def test_avif_brands_after_the_brand_box_are_ignored():
    assert sniff(container(b"heic", b"mif1") + b"avif" * 4) == "HEIF"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_heic_is_decoded_upright(orientation):
    upright = photo()
    data = saved(stored(upright, orientation), "HEIF", exif=exif(orientation).tobytes(), **BEST)

    header = inspect(io.BytesIO(data), LIMITS)

    assert (header.media_type, header.width, header.height, header.frames) == ("image/heic", 96, 64, 1)
    assert distance(decode(data).image, upright) < 6


def test_the_profile_of_a_heic_is_kept():
    data = saved(photo(), "HEIF", icc_profile=wide_gamut_profile(), **BEST)

    assert decode(data).icc == wide_gamut_profile()


def test_the_alpha_of_a_heic_is_kept():
    original = Image.fromarray(photo()).convert("RGBA")
    original.putalpha(Image.linear_gradient("L").resize(original.size))

    picture = decode(saved(original, "HEIF", **BEST))

    assert picture.mode == "RGBA"
    assert distance(picture.image.getchannel("A"), original.getchannel("A")) < 3


def test_a_10_bit_heic_is_decoded_to_8_bits():
    ramp = np.repeat(np.linspace(0, 65535, 256)[None, :, None], 64, axis=0).repeat(3, axis=2).astype(np.uint16)

    out = io.BytesIO()
    pillow_heif.encode("RGB;16", (256, 64), ramp.tobytes(), out, **BEST)

    picture = decode(out.getvalue())

    assert picture.mode == "RGB"
    assert distance(picture.image, ramp / 257) < 3


def test_only_the_first_picture_of_a_heic_is_read():
    both = pillow_heif.from_pillow(Image.fromarray(photo()))
    both.add_from_pillow(Image.new("RGB", (20, 20)))
    out = io.BytesIO()
    both.save(out, **BEST)

    assert inspect(io.BytesIO(out.getvalue()), LIMITS).frames == 1
    assert decode(out.getvalue()).size == (96, 64)


def test_a_heic_with_random_content_is_corrupt():
    with pytest.raises(CorruptImage):
        decode(container(b"heic", b"mif1") + b"\xa5" * 500)


def test_a_heic_that_declares_a_huge_size_is_refused_by_its_header():
    data = bytearray(saved(photo(), "HEIF", **BEST))
    at = data.index(b"ispe") + 8
    data[at : at + 4] = b"\x40\0\0\0"

    with pytest.raises(ImageTooLarge):
        inspect(io.BytesIO(bytes(data)), LIMITS)


def test_a_size_that_libheif_refuses_is_reported_as_corrupt_and_not_as_out_of_memory():
    with pytest.raises(CorruptImage, match="Security limit"), decoding():
        raise RuntimeError("Memory allocation error: Security limit exceeded: Image size 95x5722 exceeds 65536")


def test_the_version_of_pillow_heif_is_part_of_every_step_key_and_heic_is_a_known_type():
    assert "heif-1." in CODECS
    assert "avif-plugin-1." in CODECS
    assert MEDIA_TYPES["HEIF"] == "image/heic"


def test_without_pillow_heif_the_error_names_the_remedy():
    script = """
import sys
sys.modules["pillow_heif"] = None
from pixtools.errors import UnsupportedType
from pixtools.imaging.formats import MEDIA_TYPES, sniff
assert "HEIF" not in MEDIA_TYPES
try:
    sniff(b"\\0\\0\\0\\x18ftypheic" + bytes(4) + b"mif1heic")
except UnsupportedType as error:
    print(error.detail)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert "pip install 'pixtools[heic]'" in done.stdout
