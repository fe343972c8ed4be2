"""The function `likeness` distinguishes wrong pictures from right pictures."""

from __future__ import annotations

import numpy as np
import pytest
from color_math import ADOBE_RGB, DISPLAY_P3, SRGB, converted_8_bit
from images import opened, saved
from likeness import likeness
from PIL import Image
from read_back import composed
from specimens import on_paper, scene, with_alpha
from test_matrix import MAX_SHIFT

MIN_SCORE = 52  # the lowest score that test_matrix accepts

WHITE, BLACK = 255, 0


def with_wrong_matrix(pixels):
    """Convert pixels to YCbCr with the matrix of BT.601, and back with the matrix of BT.709."""
    y, cb, cr = np.moveaxis(np.asarray(Image.fromarray(pixels).convert("YCbCr"), dtype=float), -1, 0)
    red, blue = y + 1.5748 * (cr - 128), y + 1.8556 * (cb - 128)
    green = (y - 0.2126 * red - 0.0722 * blue) / 0.7152
    return np.stack([red, green, blue], axis=-1).round().clip(0, 255).astype(np.uint8)


RGBA = with_alpha(scene())
ON_WHITE = composed(RGBA, WHITE)
WRONG = {
    "display p3 shown as srgb": (converted_8_bit(scene(), SRGB, DISPLAY_P3), scene()),
    "srgb shown as display p3": (converted_8_bit(scene(), DISPLAY_P3, SRGB), scene()),
    "adobe rgb shown as srgb": (converted_8_bit(scene(), SRGB, ADOBE_RGB), scene()),
    "cmyk without its profile": (scene(), on_paper()),
    "cmyk inverted": (255 - on_paper(), on_paper()),
    "red and blue exchanged": (scene()[..., ::-1], scene()),
    "wrong matrix": (with_wrong_matrix(scene()), scene()),
    "limited range": ((16 + scene() * (219 / 255)).round().astype(np.uint8), scene()),
    "a little dark": (((scene() / 255) ** 1.1 * 255).round().astype(np.uint8), scene()),
    "clipped to white": (np.full_like(scene(), 255), scene()),
    "a pixel to the right": (np.roll(scene(), 1, axis=1), scene()),
    "a pixel down": (np.roll(scene(), 1, axis=0), scene()),
    "mirrored": (scene()[:, ::-1], scene()),
    "upside down": (scene()[::-1], scene()),
    "rotated by 180 degrees": (scene()[::-1, ::-1], scene()),
    "drawn on black": (composed(RGBA, BLACK), ON_WHITE),
    "transparent colours visible": (RGBA[..., :3], ON_WHITE),
    "alpha applied twice": (composed(np.dstack([composed(RGBA, BLACK), RGBA[..., 3]]), WHITE), ON_WHITE),
    "grey": (np.dstack([scene()[..., 1]] * 3), scene()),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_picture_is_distinguished_from_the_right_one(wrong):
    alike = likeness(*WRONG[wrong])

    assert alike.score < MIN_SCORE or alike.shift > MAX_SHIFT * 1.5, str(alike)


def test_a_picture_equals_itself():
    alike = likeness(scene(), scene().copy())

    assert (alike.score, alike.shift) == (100, 0)


@pytest.mark.parametrize("quality", [50, 75, 95])
def test_the_score_rises_with_quality_and_colours_are_kept(quality):
    def alike(quality):
        shown = np.asarray(opened(saved(scene(), "JPEG", quality=quality)))
        return likeness(shown, scene())

    assert alike(quality - 20).score < alike(quality).score
    assert alike(quality).shift < MAX_SHIFT
