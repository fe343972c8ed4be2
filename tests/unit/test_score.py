"""Small pictures get the scores of the library ssimulacra2. Large pictures are sampled, and get similar scores."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from images import photo, saved
from PIL import Image
from ssimulacra2 import compute_ssimulacra2

from pixtools.imaging.decoding import decode
from pixtools.imaging.geometry import place, put
from pixtools.imaging.picture import Picture
from pixtools.imaging.score import Reference

pytestmark = pytest.mark.heavy


def library_score(original: Image.Image, data: bytes) -> float:
    return compute_ssimulacra2(io.BytesIO(saved(original, "PPM")), io.BytesIO(data))


def test_the_score_of_a_small_picture_equals_the_librarys():
    original = Image.fromarray(photo(301, 205))
    data = saved(original, "JPEG", quality=40)

    found = Reference(Picture.still(original)).score(decode(data))

    assert found == pytest.approx(library_score(original, data), abs=1e-6)


def test_the_same_picture_scores_100():
    picture = Picture.still(Image.fromarray(photo()))

    assert Reference(picture).score(picture) == pytest.approx(100)


def test_a_file_of_lower_quality_scores_less():
    original = Image.fromarray(photo(200, 150))
    reference = Reference(Picture.still(original))

    scores = [reference.score(decode(saved(original, "JPEG", quality=quality))) for quality in (20, 50, 80)]

    assert scores == sorted(scores)


def test_the_score_of_a_grey_picture_equals_the_librarys():
    original = Image.fromarray(photo(200, 150)).convert("L")
    data = saved(original, "JPEG", quality=40)

    assert Reference(Picture.still(original)).score(decode(data)) == pytest.approx(
        library_score(original, data), abs=1e-6
    )


def test_the_colours_of_transparent_pixels_do_not_change_the_score():
    pixels = np.dstack([photo(200, 150), np.full((150, 200), 255, np.uint8)])
    pixels[:, :100, 3] = 0
    other = pixels.copy()
    other[:, :100, :3] = 0

    assert Reference(Picture.still(Image.fromarray(pixels))).score(
        Picture.still(Image.fromarray(other))
    ) == pytest.approx(100)


def test_lost_transparency_lowers_the_score():
    pixels = np.dstack([photo(200, 150), np.full((150, 200), 255, np.uint8)])
    pixels[:, :100, 3] = 0

    assert Reference(Picture.still(Image.fromarray(pixels))).score(Picture.still(Image.fromarray(photo(200, 150)))) < 50


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (16_384, 90), (90, 16_384)])
def test_tiny_and_narrow_pictures_have_a_score(size):
    picture = Picture.still(Image.new("RGB", size, "teal"))

    assert Reference(picture).score(picture) == pytest.approx(100)


def test_the_first_frame_of_an_animation_is_scored():
    frames = (Image.fromarray(photo()), Image.fromarray(photo()[::-1]))

    assert Reference(Picture(frames, durations=(100, 100))).score(Picture.still(frames[0])) == pytest.approx(100)


@pytest.mark.skipif("PIXTOOLS_TEST_DATA" not in os.environ, reason="needs photos: set PIXTOOLS_TEST_DATA")
@pytest.mark.parametrize("name", ["Apple_iPhone_4S.jpg", "Nikon_D3100.jpg"])
def test_the_score_of_a_sampled_photo_is_close_to_the_librarys(name):
    (path,) = Path(os.environ["PIXTOOLS_TEST_DATA"]).rglob(name)
    whole = decode(path.read_bytes())
    picture = put(whole, place(whole.size, 1800, 1800, "inside", upscale=False), None)
    data = saved(picture.image, "JPEG", quality=60)

    assert Reference(picture).score(decode(data)) == pytest.approx(library_score(picture.image, data), abs=0.5)
