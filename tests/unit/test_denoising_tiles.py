"""Only a part of each denoised window is kept. These parts cover each pixel of the picture exactly once.

Denoising window by window does not change the result.
"""

from __future__ import annotations

import numpy as np
import pytest
from denoisers import Plain
from hypothesis import given
from hypothesis import strategies as st

from pixtools.denoising.dncnn import HALO
from pixtools.denoising.engine import Blend
from pixtools.denoising.tiles import windows

pytestmark = pytest.mark.heavy

lengths = st.integers(1, 700)
sides = st.integers(2 * HALO + 10, 300)


@given(lengths, lengths, sides)
def test_the_kept_parts_cover_the_picture_once(width, height, side):
    covered = np.zeros((height, width), dtype=int)
    for window in windows(width, height, side):
        covered[window.kept.slices] += 1
    assert (covered == 1).all()


@given(lengths, lengths, sides, st.integers(0, HALO))
def test_a_kept_part_is_a_halo_away_from_each_edge_that_is_not_an_edge_of_the_picture(width, height, side, halo):
    for window in windows(width, height, side, halo):
        read, kept = window.read, window.kept
        assert kept.left - read.left >= halo or read.left == kept.left == 0
        assert kept.top - read.top >= halo or read.top == kept.top == 0
        assert read.right - kept.right >= halo or read.right == kept.right == width
        assert read.bottom - kept.bottom >= halo or read.bottom == kept.bottom == height


@given(lengths, lengths, sides)
def test_windows_are_inside_the_picture_and_have_one_size_of_at_most_a_square_of_the_side(width, height, side):
    boxes = [window.read for window in windows(width, height, side)]
    assert all(min(box.left, box.top) >= 0 and box.right <= width and box.bottom <= height for box in boxes)
    ((box_width, box_height),) = {(box.right - box.left, box.bottom - box.top) for box in boxes}
    assert box_width * box_height <= side**2


@pytest.mark.parametrize(
    ("size", "number", "window"),
    [
        ((1024, 1024), 1, (1024, 1024)),
        ((1732, 1155), 2, (896, 1155)),  # four windows that are nearly square would overlap more
        ((1155, 1732), 2, (1155, 896)),
        ((10_000, 50), 1, (10_000, 50)),  # longer than the side, but with fewer pixels than the square
        ((6000, 4000), 25, (1248, 832)),
    ],
)
def test_windows_overlap_as_little_as_possible(size, number, window):
    found = windows(*size, 1024)
    read = found[0].read
    assert (len(found), (read.right - read.left, read.bottom - read.top)) == (number, window)


@given(lengths, lengths, sides)
def test_no_other_cut_has_fewer_pixels(width, height, side):
    found = windows(width, height, side)
    pixels = sum((one.read.right - one.read.left) * (one.read.bottom - one.read.top) for one in found)
    for columns in range(1, 9):
        for rows in range(1, 9):
            box = [span(width, columns), span(height, rows)]
            if box[0] * box[1] <= side**2:
                assert pixels <= columns * rows * box[0] * box[1]


def span(length, count):
    """Return the side of one window. `count` windows of this side cover `length` pixels.

    If there are several windows, the side is rounded up to a multiple of 32.
    """
    side = -(-(length - 2 * HALO) // count) + 2 * HALO
    return length if count == 1 else max(-(-side // 32) * 32, 2 * HALO + 1)


def test_a_side_of_two_halos_is_refused():
    with pytest.raises(ValueError, match="side of 40"):
        windows(100, 100, 2 * HALO)


def test_a_picture_without_pixels_is_refused():
    with pytest.raises(ValueError, match="no pixels"):
        windows(0, 5, 100)


def denoised(plain, picture):
    """Denoise a picture (H, W, 3) in one piece."""
    return plain.denoise(picture[None], np.array([Blend().as_row()], np.float32)).tiles[0]


def tiled(plain, picture, side, halo=HALO):
    """Denoise a picture window by window."""
    height, width = picture.shape[:2]
    result = np.full_like(picture, np.nan)
    for window in windows(width, height, side, halo):
        tile = denoised(plain, picture[window.read.slices])
        result[window.kept.slices] = tile[window.inner.slices]
    return result


@pytest.mark.parametrize(("width", "height", "side"), [(70, 131, 64), (131, 70, 96), (65, 41, 64), (97, 103, 57)])
def test_a_picture_in_windows_has_the_same_result_as_in_one_piece(width, height, side):
    plain = Plain()
    picture = np.random.default_rng(3).random((height, width, 3), dtype=np.float32)
    whole = denoised(plain, picture)
    assert np.abs(whole - picture).mean() > 0.01  # so the next comparison means something
    assert np.abs(tiled(plain, picture, side) - whole).max() < 1e-5


def test_a_halo_that_is_too_narrow_changes_the_result():
    plain = Plain()
    picture = np.random.default_rng(3).random((70, 90, 3), dtype=np.float32)
    whole = denoised(plain, picture)
    assert np.abs(tiled(plain, picture, 64, HALO - 4) - whole).max() > 1e-5
