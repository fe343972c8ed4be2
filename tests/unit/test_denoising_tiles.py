"""Windows cover a picture once, and the network makes of them what it makes of the whole."""

from __future__ import annotations

import numpy as np
import pytest
from denoisers import Plain
from hypothesis import given
from hypothesis import strategies as st

from pixtools.denoising.dncnn import HALO
from pixtools.denoising.tiles import STEP, windows

lengths = st.integers(1, 700)
sides = st.integers(2 * HALO + 10, 300)


@given(lengths, lengths, sides)
def test_what_is_kept_covers_the_picture_once(width, height, side):
    covered = np.zeros((height, width), dtype=int)
    for window in windows(width, height, side):
        covered[window.kept.slices] += 1
    assert (covered == 1).all()


@given(lengths, lengths, sides, st.integers(0, HALO))
def test_what_is_kept_is_a_halo_away_from_every_edge_that_is_not_the_pictures_own(width, height, side, halo):
    for window in windows(width, height, side, halo):
        read, kept = window.read, window.kept
        assert kept.left - read.left >= halo or read.left == kept.left == 0
        assert kept.top - read.top >= halo or read.top == kept.top == 0
        assert read.right - kept.right >= halo or read.right == kept.right == width
        assert read.bottom - kept.bottom >= halo or read.bottom == kept.bottom == height


@given(lengths, lengths, sides)
def test_windows_lie_within_the_picture_and_have_one_size_of_at_most_the_side(width, height, side):
    found = [window.read for window in windows(width, height, side)]
    assert all(min(box.left, box.top) >= 0 and box.right <= width and box.bottom <= height for box in found)
    ((across, down),) = {(box.right - box.left, box.bottom - box.top) for box in found}
    assert across <= side
    assert down <= side


@given(lengths, sides)
def test_windows_are_as_few_as_can_be_and_as_short_as_steps_allow(length, side):
    found = windows(length, 1, side)
    number, span = len(found), found[0].read.right
    if number == 1:
        assert span == length <= side
        return
    assert (number - 1) * (side - 2 * HALO) + 2 * HALO < length
    assert span == side or span % STEP == 0
    assert number * (span - STEP - 2 * HALO) + 2 * HALO < length


def test_a_side_that_leaves_nothing_to_keep_is_refused():
    with pytest.raises(ValueError, match="side of 40"):
        windows(100, 100, 2 * HALO)


def test_a_picture_without_pixels_is_refused():
    with pytest.raises(ValueError, match="no pixels"):
        windows(0, 5, 100)


def tiled(plain, picture, side, halo=HALO):
    height, width = picture.shape[:2]
    found = np.full_like(picture, np.nan)
    for window in windows(width, height, side, halo):
        (tile,) = plain.denoise(picture[window.read.slices][None], np.ones(1, np.float32))
        found[window.kept.slices] = tile[window.inner.slices]
    return found


@pytest.mark.parametrize(("width", "height", "side"), [(70, 131, 64), (131, 70, 96), (65, 41, 64), (97, 103, 57)])
def test_a_picture_in_tiles_comes_out_as_in_one(width, height, side):
    plain = Plain()
    picture = np.random.default_rng(3).random((height, width, 3), dtype=np.float32)
    (whole,) = plain.denoise(picture[None], np.ones(1, np.float32))
    assert np.abs(whole - picture).mean() > 0.01  # or it would do nothing, in tiles too
    assert np.abs(tiled(plain, picture, side) - whole).max() < 1e-5


def test_a_halo_that_is_too_narrow_shows():
    plain = Plain()
    picture = np.random.default_rng(3).random((70, 90, 3), dtype=np.float32)
    (whole,) = plain.denoise(picture[None], np.ones(1, np.float32))
    assert np.abs(tiled(plain, picture, 64, HALO - 4) - whole).max() > 1e-5
