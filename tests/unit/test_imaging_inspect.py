"""`inspect` reads the type, the size and the frame count of an upload, and checks the limits. It decodes no pixels."""

from __future__ import annotations

import io
import time

import pytest
from animations import Frame, filled, gif
from images import LIMITS, XMP, animation, bomb, camera_jpeg, container, distance, exif, opened, photo, saved, stored
from PIL import PngImagePlugin

from pixtools.errors import CorruptImage, ImageTooLarge, UnsupportedType
from pixtools.imaging.decoding import decode
from pixtools.imaging.formats import HEAD_BYTES, MEDIA_TYPES, sniff
from pixtools.imaging.header import inspect
from pixtools.limits import Limits


def inspected(data: bytes, limits: Limits = LIMITS):
    return inspect(io.BytesIO(data), limits)


@pytest.mark.parametrize("kind", MEDIA_TYPES)
def test_each_supported_format_is_identified_by_its_first_bytes(kind):
    assert sniff(saved(photo(), kind)[:HEAD_BYTES]) == kind


@pytest.mark.parametrize(
    "head",
    [
        container(b"avif", b"mif1", b"miaf"),
        container(b"mif1", b"avif", b"mif1"),
        container(b"avis", b"msf1", b"avif"),
    ],
)
def test_avif_is_identified_by_any_of_its_brands(head):
    assert sniff(head[:HEAD_BYTES]) == "AVIF"


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', id="SVG"),
        pytest.param(b"<svg onload=alert(1)>", id="SVG without a prologue"),
        pytest.param(b"%PDF-1.7\n", id="PDF"),
        pytest.param(b"%!PS-Adobe-3.0 EPSF-3.0\n", id="EPS"),
        pytest.param(b"MZ\x90\x00\x03", id="EXE"),
        pytest.param(b"\x7fELF\x02\x01", id="ELF"),
        pytest.param(b"PK\x03\x04", id="ZIP"),
        pytest.param(container(b"isom", b"mp41"), id="MP4"),
        pytest.param(b"RIFF\x10\0\0\0WAVEfmt ", id="WAV"),
        pytest.param(b"\x89PNG\r\n", id="half a signature"),
        pytest.param(b"<html>GIF89a</html>", id="a signature in the middle"),
    ],
)
def test_every_other_format_is_unsupported(head):
    with pytest.raises(UnsupportedType, match="JPEG, PNG, WebP, AVIF, GIF, TIFF, BMP, HEIC"):
        sniff(head[:HEAD_BYTES])


@pytest.mark.parametrize("kind", MEDIA_TYPES)
def test_the_header_has_type_and_size(kind):
    header = inspected(saved(photo(96, 64), kind))

    assert (header.media_type, header.width, header.height, header.frames) == (MEDIA_TYPES[kind], 96, 64, 1)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_header_has_the_upright_size(kind, orientation):
    header = inspected(saved(stored(photo(96, 64), orientation), kind, exif=exif(orientation)))

    assert (header.width, header.height) == (96, 64)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_invalid_orientation_is_ignored(orientation):
    header = inspected(saved(photo(96, 64), "JPEG", exif=exif(orientation)))

    assert (header.width, header.height) == (96, 64)


def test_the_file_is_read_from_its_start_whatever_its_position():
    file = io.BytesIO(camera_jpeg())
    file.seek(100)

    assert inspect(file, LIMITS).media_type == "image/jpeg"


def test_a_decompression_bomb_is_refused_by_its_header_in_100_ms():
    data = bomb(50_000)
    assert len(data) < 12_000

    started = time.process_time()
    with pytest.raises(ImageTooLarge, match=r"50000 × 50000 .* 16,384"):
        inspected(data)
    assert time.process_time() - started < 0.1


def test_a_decompression_bomb_within_the_side_limit_is_refused_by_its_pixels():
    with pytest.raises(ImageTooLarge, match="50 megapixels"):
        inspected(bomb(16_000))


@pytest.mark.parametrize(("size", "fits"), [((100, 50), True), ((101, 10), False), ((10, 101), False)])
def test_the_side_limit_includes_its_value(size, fits):
    limits = Limits(pixels=10_000, side=100, frames=1)
    data = saved(photo(*size), "PNG")

    if fits:
        assert inspected(data, limits).width == 100
    else:
        with pytest.raises(ImageTooLarge, match="at most 100 pixels"):
            inspected(data, limits)


@pytest.mark.parametrize(("pixels", "fits"), [(96 * 64, True), (96 * 64 - 1, False)])
def test_the_pixel_limit_includes_its_value(pixels, fits):
    data, limits = saved(photo(96, 64), "PNG"), Limits(pixels, side=100, frames=1)

    if fits:
        assert inspected(data, limits).width == 96
    else:
        with pytest.raises(ImageTooLarge, match="megapixels"):
            inspected(data, limits)


def test_frames_are_counted():
    assert inspected(animation(100)).frames == 100


def test_one_frame_above_the_limit_is_refused():
    with pytest.raises(ImageTooLarge, match="101 frames, but the limit is 100"):
        inspected(animation(101))


def test_ten_thousand_frames_are_refused_within_a_second():
    started = time.process_time()
    with pytest.raises(ImageTooLarge, match="at least 101 frames, but the limit is 100"):
        inspected(animation(10_000))
    assert time.process_time() - started < 1


def test_the_pixels_of_all_frames_are_counted():
    frames = [opened(saved(photo(96, 64)[:, :, ::turn], "GIF")) for turn in (1, -1)]
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])

    assert inspected(data, Limits(2 * 96 * 64, side=100, frames=2)).frames == 2
    with pytest.raises(ImageTooLarge, match="2 frames"):
        inspected(data, Limits(2 * 96 * 64 - 1, side=100, frames=2))


@pytest.mark.parametrize("kind", MEDIA_TYPES)
def test_a_signature_without_an_image_is_corrupt(kind):
    with pytest.raises(CorruptImage):
        inspected(saved(photo(), kind)[:20])


@pytest.mark.parametrize("kind", MEDIA_TYPES)
def test_a_signature_before_random_bytes_is_corrupt(kind):
    with pytest.raises((CorruptImage, ImageTooLarge)):
        inspected(saved(photo(), kind)[:16] + b"\xa5" * 5_000)


def test_a_truncated_image_can_be_inspected():
    whole = saved(photo(400, 300), "PNG")

    assert inspected(whole[: len(whole) // 2]).width == 400


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(saved(photo(), "PNG").replace(b"\0\0\0\x60\0\0\0\x40", bytes(8)), id="PNG"),
        pytest.param(gif((0, 3), [Frame(filled(1, 0, 1))]), id="GIF"),
        pytest.param(saved(photo(), "JPEG").replace(b"\0\x40\0\x60", b"\0\x40\0\0"), id="JPEG"),
        pytest.param(saved(photo(), "BMP").replace(b"\x60\0\0\0\x40\0\0\0", bytes(8)), id="BMP"),
        pytest.param(saved(photo(), "WEBP").replace(b"\x60\0\x40\0", bytes(4), 1), id="WEBP"),
        pytest.param(saved(photo(), "TIFF").replace(b"\0\1\4\0\1\0\0\0\x60", b"\0\1\4\0\1\0\0\0\0"), id="TIFF"),
    ],
)
def test_an_image_without_pixels_is_corrupt(data):
    with pytest.raises(CorruptImage):
        inspected(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_the_orientation_in_xmp_is_ignored(kind):
    assert b'tiff:Orientation="6"' in XMP
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", XMP.decode())
    data = saved(photo(96, 64), kind, xmp=XMP, pnginfo=info)

    header, picture = inspected(data), decode(data)

    assert (header.width, header.height) == picture.size == (96, 64)


def test_the_orientation_in_exif_is_applied_even_if_xmp_has_another():
    data = saved(stored(photo(96, 64), 8), "JPEG", xmp=XMP, exif=exif(8))

    assert distance(decode(data).image, photo(96, 64)) < 6


def test_invalid_exif_does_not_prevent_reading_the_header():
    header = inspected(saved(photo(96, 64), "JPEG", exif=b"Exif\0\0garbage and more garbage"))

    assert (header.width, header.height) == (96, 64)
