"""The noise of a picture is estimated from the picture alone."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from pixtools.denoising.noise import CLEAN_SIGMA, MIN_SIDE, estimate

SIGMAS = [2, 3, 5, 10, 15, 25, 50]


def scene(height=256, width=320):
    """Return a picture as float (H, W, 3), with levels from about 60 to 200.

    The picture shows soft colours, a grating that becomes finer, and a disc with a sharp edge.
    """
    y, x = np.mgrid[:height, :width] / 64
    soft = 130 + 30 * np.sin(x[..., None] + np.arange(3)) + 20 * np.cos(1.3 * y[..., None])
    grating = 15 * np.sin(4 * x * x)[..., None] * (y > 2.5)[..., None]
    return soft + grating + 25 * ((x - 3) ** 2 + (y - 1) ** 2 < 0.5)[..., None]


def noisy(levels, sigma, dtype=np.uint8):
    white = np.iinfo(dtype).max
    noisy_levels = levels + np.random.default_rng(17).normal(0, sigma, levels.shape)
    return (noisy_levels * (white / 255)).round().clip(0, white).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("sigma", SIGMAS)
def test_the_estimate_is_the_sigma_of_the_added_noise(sigma, dtype):
    assert estimate(noisy(scene(), sigma, dtype)) == pytest.approx(sigma, rel=0.08)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_the_noise_of_a_grey_picture_is_estimated(sigma):
    assert estimate(noisy(scene()[..., 1], sigma)) == pytest.approx(sigma, rel=0.1)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_clean_picture_has_hardly_any_noise(dtype):
    assert estimate(noisy(scene(), 0, dtype)) < 0.5


def test_fine_texture_beside_smooth_parts_does_not_count_as_noise():
    levels = scene()
    levels[128:] += np.random.default_rng(2).choice([-30, 30], levels[128:].shape[:2])[..., None]
    assert estimate(noisy(levels, 0)) < CLEAN_SIGMA
    assert estimate(noisy(levels, 5)) == pytest.approx(5, rel=0.1)


@pytest.mark.parametrize("limit", [0, 255])
@pytest.mark.parametrize("sigma", [3, 15])
def test_areas_clipped_at_black_or_white_are_ignored(limit, sigma):
    levels = scene()
    levels[:, :200] = (
        limit + np.sign(limit - 100) * 80
    )  # every pixel there is clipped to black or white, so no noise is visible
    assert estimate(noisy(levels, sigma)) == pytest.approx(sigma, rel=0.1)


def test_a_dark_picture_with_heavy_noise_does_not_count_as_clean():
    assert 15 < estimate(noisy(np.full((128, 128, 3), 10.0), 25)) < 25


def drawing(paper, ink):
    image = Image.new("L", (400, 300), paper)
    draw = ImageDraw.Draw(image)
    for line in range(8):
        draw.text((30, 40 + 14 * line), "Sphinx of black quartz, judge my vow", fill=ink)
    draw.ellipse((200, 180, 330, 280), fill=(paper + ink) // 2)
    return np.asarray(image)


@pytest.mark.parametrize(("paper", "ink"), [(255, 0), (0, 255), (230, 40), (255, 90)])
def test_a_drawing_in_a_few_colours_has_no_noise(paper, ink):
    assert estimate(drawing(paper, ink)) == 0


@pytest.mark.parametrize("sigma", [3, 10])
def test_the_noise_of_a_scanned_drawing_is_estimated(sigma):
    assert estimate(noisy(drawing(200, 60).astype(float), sigma)) == pytest.approx(sigma, rel=0.1)


def test_a_narrow_frame_of_one_colour_does_not_change_the_estimate():
    framed = noisy(scene(), 10)
    framed[:3], framed[-3:], framed[:, :3], framed[:, -3:] = (90, 80, 70), (90, 80, 70), (90, 80, 70), (90, 80, 70)
    assert estimate(framed) == pytest.approx(10, rel=0.1)


@pytest.mark.parametrize("number", [0, 77, 255])
@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (7, 9, 3), (200, 200, 3)])
def test_a_picture_of_one_colour_has_no_noise_at_any_size(shape, number):
    assert estimate(np.full(shape, number, np.uint8)) == 0


def test_the_estimate_is_0_for_a_picture_that_is_too_small():
    assert estimate(noisy(np.full((MIN_SIDE - 1, 200), 128.0), 20)) == 0
    assert estimate(noisy(np.full((MIN_SIDE, 200), 128.0), 20)) == pytest.approx(20, rel=0.1)


def test_transparent_pixels_are_ignored():
    pixels = noisy(scene(), 5)
    pixels[:, :250] = noisy(scene()[:, :250], 60)
    alpha = np.full(pixels.shape[:2], 255, np.uint8)
    alpha[:, :250] = 0
    assert estimate(pixels, alpha) == pytest.approx(5, rel=0.1)
    assert estimate(pixels, np.zeros_like(alpha)) == 0


def test_a_large_picture_is_sampled_in_all_its_parts():
    levels = np.full((2000, 1500), 100.0)
    levels[1000:] = 160
    pixels = noisy(levels, 4)
    pixels[1000:] = noisy(levels[1000:], 12)
    assert 3.5 < estimate(pixels) < 5
    assert estimate(pixels[::-1]) == pytest.approx(estimate(pixels), rel=0.1)
    assert estimate(pixels) == estimate(pixels)
