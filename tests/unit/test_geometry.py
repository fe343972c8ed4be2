"""Resized, cropped, rotated, mirrored and filtered pictures have the right sizes, pixels and transparency."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from images import distance, photo
from PIL import Image

from pixtools.imaging.filters import blur, sharpen
from pixtools.imaging.geometry import Fit, crop, flip, place, put, rotate, rotated_size
from pixtools.imaging.picture import Picture

SIDES = st.integers(1, 16_384)
SIZES = st.tuples(SIDES, SIDES)


@given(size=SIZES, box=st.tuples(SIDES, SIDES | st.none()), turned=st.booleans(), upscale=st.booleans())
def test_a_size_inside_a_box_has_the_same_aspect_ratio(size, box, turned, upscale):
    width, height = reversed(box) if turned else box
    placed = place(size, width, height, "inside", upscale=upscale)
    fitted = placed.scaled

    assert placed.canvas == fitted
    assert 1 <= fitted[0] <= (width or fitted[0])
    assert 1 <= fitted[1] <= (height or fitted[1])
    # Only rounding changes the aspect ratio, unless a side would be shorter than one pixel.
    if 1 not in fitted:
        assert abs(fitted[0] * size[1] - fitted[1] * size[0]) <= (max(size) + min(size)) * 0.5
    assert fitted[0] == width or fitted[1] == height or (fitted == size and not upscale)


@given(size=SIZES, box=SIZES, fit=st.sampled_from(get_args(Fit)))
def test_nothing_is_enlarged_without_upscale(size, box, fit):
    placed = place(size, *box, fit, upscale=False)

    assert placed.scaled[0] <= size[0]
    assert placed.scaled[1] <= size[1]


@given(size=SIZES, box=SIZES, fit=st.sampled_from(["contain", "cover", "fill"]))
def test_with_upscale_the_canvas_is_the_whole_box(size, box, fit):
    placed = place(size, *box, fit, upscale=True)

    assert placed.canvas == box
    match fit:
        case "cover":
            assert placed.scaled[0] >= box[0]
            assert placed.scaled[1] >= box[1]
        case "contain":
            assert placed.scaled[0] == box[0] or placed.scaled[1] == box[1]
            assert placed.scaled[0] <= box[0]
            assert placed.scaled[1] <= box[1]
        case "fill":
            assert placed.scaled == box


@pytest.mark.parametrize(
    ("size", "width", "height", "fit", "upscale", "scaled", "canvas"),
    [
        ((4000, 3000), 1280, None, "inside", False, (1280, 960), (1280, 960)),
        ((4000, 3000), None, 300, "inside", False, (400, 300), (400, 300)),
        ((3000, 4000), 100, 100, "inside", False, (75, 100), (75, 100)),
        ((200, 100), 400, 400, "inside", False, (200, 100), (200, 100)),
        ((200, 100), 400, 400, "inside", True, (400, 200), (400, 200)),
        ((5000, 1), 100, None, "inside", False, (100, 1), (100, 1)),
        ((4000, 3000), 400, 400, "contain", False, (400, 300), (400, 400)),
        ((200, 100), 400, 400, "contain", False, (200, 100), (400, 400)),
        ((200, 100), 400, 400, "contain", True, (400, 200), (400, 400)),
        ((4000, 3000), 400, 400, "cover", False, (533, 400), (400, 400)),
        ((200, 100), 150, 150, "cover", False, (200, 100), (100, 100)),
        ((640, 480), 1000, 1000, "cover", False, (640, 480), (480, 480)),
        ((200, 100), 150, 150, "cover", True, (300, 150), (150, 150)),
        ((4000, 3000), 400, 400, "fill", False, (400, 400), (400, 400)),
        ((200, 100), 400, 50, "fill", False, (200, 25), (200, 25)),
        ((200, 100), 400, 50, "fill", True, (400, 50), (400, 50)),
    ],
)
def test_placements_of_typical_pictures(size, width, height, fit, upscale, scaled, canvas):
    placed = place(size, width, height, fit, upscale=upscale)

    assert (placed.scaled, placed.canvas) == (scaled, canvas)


def still(width: int = 384, height: int = 256) -> Picture:
    return Picture.still(Image.fromarray(photo(width, height)), b"icc")


def resized(picture: Picture, width: int, height: int, fit: str = "inside", background: str | None = None) -> Picture:
    return put(picture, place(picture.size, width, height, fit, upscale=True), background)


def test_a_resized_photo_shows_the_same_scene():
    small = resized(still(), 96, 64)

    assert small.icc == b"icc"
    assert distance(small.image, photo(96, 64)) < 6


def test_a_picture_of_the_right_size_is_not_resampled():
    picture = still()

    assert resized(picture, 384, 256) is picture


def test_cover_keeps_the_middle():
    covered = resized(still(), 128, 256, "cover")

    assert np.array_equal(covered.image, photo(384, 256)[:, 128:256])


def test_cover_gives_the_same_as_resampling_the_whole_picture_and_cutting():
    covered = resized(still(), 96, 128, "cover")
    whole = resized(still(), 192, 128, "fill")

    assert distance(covered.image, np.asarray(whole.image)[:, 48:144]) < 0.5


def test_contain_adds_transparent_padding():
    pixels = np.asarray(resized(still(96, 64), 96, 96, "contain").image)

    assert pixels.shape == (96, 96, 4)
    assert np.array_equal(pixels[16:80, :, :3], photo(96, 64))
    assert pixels[16:80, :, 3].min() == 255
    assert pixels[:16].max() == pixels[80:].max() == 0


def test_contain_adds_padding_of_a_colour():
    pixels = np.asarray(resized(still(96, 64), 96, 96, "contain", "#ff8000").image)

    assert pixels.shape == (96, 96, 3)
    assert (pixels[:16] == (255, 128, 0)).all()


@pytest.mark.parametrize(("color", "mode"), [("#ff0000", "RGB"), ("#808080", "L")])
def test_a_grey_picture_becomes_rgb_only_for_padding_with_a_colour(color, mode):
    grey = Picture.still(Image.new("L", (8, 4), 7))

    assert resized(grey, 8, 8, "contain", color).mode == mode


def test_the_colours_of_transparent_pixels_do_not_leak_into_visible_ones():
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[:, :4] = (255, 0, 0, 0)  # transparent red
    pixels[:, 4:] = (0, 0, 255, 255)
    picture = Picture.still(Image.fromarray(pixels))

    for result in (resized(picture, 3, 3), blur(picture, 2), sharpen(picture, 2, 2, 0), rotate(picture, 30, None)):
        changed = np.asarray(result.image).astype(int)
        visible = changed[changed[:, :, 3] > 8]
        assert len(visible)
        assert visible[:, 0].max() <= 16, result


def test_every_frame_of_an_animation_is_resized():
    frames = tuple(Image.fromarray(photo()).point(lambda value, by=by: value // by) for by in (1, 2))
    picture = Picture(frames, None, durations=(100, 200), loops=3)

    small = resized(picture, 48, 32)

    assert [frame.size for frame in small.frames] == [(48, 32)] * 2
    assert (small.durations, small.loops) == ((100, 200), 3)
    assert distance(small.frames[0], photo(48, 32)) < 6


def test_crop_cuts_out_an_area():
    assert np.array_equal(crop(still(), 10, 20, (30, 40)).image, photo(384, 256)[20:60, 10:40])


@pytest.mark.parametrize(("degrees", "turns"), [(0, 0), (90, -1), (180, 2), (270, 1), (-90, 1), (360, 0), (-270, -1)])
def test_right_angles_rotate_clockwise_without_changing_a_pixel(degrees, turns):
    turned = rotate(still(), degrees, None)

    assert np.array_equal(turned.image, np.rot90(photo(384, 256), turns))
    assert turned.size == rotated_size((384, 256), degrees)


@pytest.mark.parametrize("degrees", [1, 30, 45, 89.5, 120, -33, 200.25])
def test_other_angles_keep_the_whole_picture_and_make_corners_transparent(degrees):
    turned = rotate(still(96, 64), degrees, None)

    assert turned.mode == "RGBA"
    assert turned.size == rotated_size((96, 64), degrees)
    alpha = np.asarray(turned.image)[:, :, 3]
    assert alpha[0, 0] == alpha[-1, -1] == 0 or abs(degrees) < 2
    assert abs(int((alpha / 255).sum()) - 96 * 64) < 96 * 64 * 0.03
    back = rotate(turned, -degrees, None).image
    left, top = back.width // 2 - 20, back.height // 2 - 12
    middle = np.asarray(back)[top : top + 24, left : left + 40, :3]
    assert distance(middle, photo(96, 64)[20:44, 28:68]) < 8


def test_corners_get_the_requested_colour():
    pixels = np.asarray(rotate(still(96, 64), 45, "#00ff00").image)

    assert pixels.shape[2] == 3
    assert tuple(pixels[0, 0]) == tuple(pixels[-1, -1]) == (0, 255, 0)


def test_flip_mirrors_horizontally_or_vertically():
    assert np.array_equal(flip(still(), vertical=False).image, photo(384, 256)[:, ::-1])
    assert np.array_equal(flip(still(), vertical=True).image, photo(384, 256)[::-1])


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_filters_keep_mode_and_size(mode):
    picture = Picture.still(Image.fromarray(photo()).convert(mode))

    for result in (blur(picture, 2), sharpen(picture, 1, 1, 0)):
        assert (result.mode, result.size) == (mode, picture.size)


def contrast(picture: Picture) -> float:
    """Return the mean difference between a pixel and the next pixel in its row."""
    grey = np.asarray(picture.image.convert("L"), dtype=float)
    return float(np.abs(np.diff(grey, axis=1)).mean())


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_blur_softens_edges_and_sharpen_strengthens_them(mode):
    picture = Picture.still(Image.fromarray(photo()).convert(mode))

    assert (
        contrast(blur(picture, 3)) < contrast(picture) * 0.7 < contrast(picture) < contrast(sharpen(picture, 1, 1, 2))
    )
    assert distance(blur(picture, 3).image.convert("RGB"), photo()) < 20
