"""A JPEG for a small result is decoded at a reduced size. The result has the planned size and looks the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from images import camera_jpeg, distance, exif, photo, saved, stored

from pixtools.imaging.decoding import decode, reduced_size
from pixtools.operations.base.resizing import Resizing


def jpeg(width: int, height: int, orientation: int = 1) -> bytes:
    """Return a JPEG that is stored with an orientation. The upright photo has the size `width` × `height`."""
    return saved(
        stored(photo(width, height), orientation), "JPEG",
        quality=95, subsampling=0, exif=exif(orientation),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("needed_size", "size"),
    [
        ((800, 600), (800, 600)),
        ((400, 300), (800, 600)),
        ((201, 10), (800, 600)),
        ((200, 150), (400, 300)),
        ((10, 76), (400, 300)),
        ((100, 75), (200, 150)),
        ((50, 1), (100, 75)),
        ((1, 1), (100, 75)),
        ((9_000, 1), (800, 600)),
    ],
)
def test_a_jpeg_is_halved_while_both_sides_stay_at_least_twice_the_needed_size(needed_size, size):
    picture = decode(jpeg(800, 600), needed_size)

    assert picture.size == size == reduced_size((800, 600), needed_size)
    assert picture.reduced_from == (None if size == (800, 600) else (800, 600))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "AVIF", "TIFF", "BMP", "GIF"])
def test_other_formats_are_decoded_at_full_size(kind):
    picture = decode(saved(photo(80, 60), kind), (1, 1))

    assert (picture.size, picture.reduced_from) == ((80, 60), None)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_needed_size_is_upright(orientation):
    data = jpeg(800, 160, orientation)

    picture = decode(data, (200, 20))

    assert (picture.size, picture.reduced_from) == ((400, 80), (800, 160))
    assert distance(picture.image, np.asarray(photo(800, 160)).reshape(80, 2, 400, 2, 3).mean(axis=(1, 3))) < 6


def test_a_reduced_jpeg_keeps_its_profile():
    assert decode(camera_jpeg(800, 600), (50, 50)).icc == decode(camera_jpeg(800, 600)).icc is not None


RESIZES = st.builds(
    Resizing,
    width=st.integers(1, 120),
    height=st.integers(1, 120),
    fit=st.sampled_from(["inside", "contain", "cover", "fill"]),
    upscale=st.booleans(),
)


@settings(max_examples=60)
@given(width=st.integers(1, 500), height=st.integers(1, 500), resize=RESIZES)
def test_a_resize_of_a_reduced_jpeg_has_the_planned_size(width, height, resize):
    planned = resize.placement((width, height))
    data = saved(np.full((height, width, 3), 90, np.uint8), "JPEG")

    result = resize.apply(decode(data, planned.scaled))

    assert (result.size, result.reduced_from) == (planned.canvas, None)


@pytest.mark.parametrize("fit", ["inside", "contain", "cover", "fill"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_resize_of_a_reduced_jpeg_looks_the_same(fit, orientation):
    resize = Resizing(width=90, height=60, fit=fit)
    data = jpeg(801, 803, orientation)

    reduced = resize.apply(decode(data, resize.placement((801, 803)).scaled))
    whole = resize.apply(decode(data))

    assert reduced.size == whole.size
    assert distance(reduced.image, whole.image) < 1.5
