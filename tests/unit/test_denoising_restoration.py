"""What is denoised of a picture, what is left, and what is said of it."""

from __future__ import annotations

import numpy as np
import pytest
from denoisers import Plain

from pixtools.denoising.restoration import Restoration, denoise

DTYPES = [np.uint8, np.uint16]


def noisy(height, width, channels, dtype=np.uint8, frames=1):
    """Return (N, H, W, C): soft colours under strong noise, with an alpha of every opacity where there is one."""
    rng = np.random.default_rng(11)
    ramp = np.linspace(60, 190, width)[None, None, :, None] + np.arange(frames)[:, None, None, None]
    levels = ramp + rng.normal(0, 20, (frames, height, width, channels))
    top = np.iinfo(dtype).max
    pixels = (levels * (top / 255)).round().clip(0, top).astype(dtype)
    if channels in (2, 4):
        pixels[..., -1] = rng.integers(0, top, pixels.shape[:3], endpoint=True)
    return pixels


def expected(plain, frame, strength=1.0):
    """Return what the network makes of one opaque frame in one piece."""
    colors = np.repeat(frame, 3, axis=2) if frame.shape[2] == 1 else frame
    (found,) = plain.denoise(np.ascontiguousarray(colors)[None], np.full(1, strength, np.float32))
    return found.astype(float).mean(axis=2, keepdims=True).round() if frame.shape[2] == 1 else found


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_a_picture_in_tiles_is_what_the_network_makes_of_it_in_one_piece(channels, dtype, strength):
    plain = Plain()
    pixels = noisy(67, 91, channels, dtype)
    found, report = denoise(plain, pixels, strength, side=64, batch=3)
    assert (found.dtype, found.shape) == (dtype, pixels.shape)
    assert report.skipped is None
    assert {shape[1:] for shape in plain.seen} == {(64, 64, 3)}
    # Sums in another order may round to the next number.
    assert np.abs(found[0].astype(int) - expected(plain, pixels[0], strength)).max() <= (1 if dtype == np.uint8 else 2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [2, 4])
def test_alpha_is_handed_through_and_what_is_hidden_keeps_its_colour(channels, dtype):
    pixels = noisy(50, 70, channels, dtype)
    pixels[0, :20, :30, -1] = 0
    found, _ = denoise(Plain(), pixels, side=64)
    assert (found[..., -1] == pixels[..., -1]).all()
    assert (found[0, :20, :30] == pixels[0, :20, :30]).all()
    seen = pixels[..., -1] > 0
    assert (found[..., 0] != pixels[..., 0])[seen].mean() > 0.5


def test_colours_under_an_alpha_of_0_do_not_bleed_into_what_is_seen():
    pixels = noisy(50, 70, 4)
    pixels[0, :, :35, 3], pixels[0, :, 35:, 3] = 0, 255
    other = pixels.copy()
    other[0, :, :35, :3] = 255 - other[0, :, :35, :3]
    one, another = (denoise(Plain(), each, noise="any", side=64)[0] for each in (pixels, other))
    assert (one[0, :, 35:] == another[0, :, 35:]).all()


def test_tiles_of_which_nothing_is_seen_are_not_run():
    plain = Plain()
    pixels = noisy(64, 150, 4)
    pixels[..., 3] = 255
    pixels[0, :, :80, 3] = 0
    found, _ = denoise(plain, pixels, side=64)
    restoration = Restoration(pixels, side=64)
    assert len(plain.seen) == len(list(restoration.tiles())) < len(restoration)
    assert (found[0, :, :80] == pixels[0, :, :80]).all()
    assert (found[0, :, 80:] != pixels[0, :, 80:]).any()


def test_a_picture_that_is_wholly_clear_comes_out_as_it_was():
    pixels = noisy(40, 40, 4)
    pixels[..., 3] = 0
    plain = Plain()
    found, report = denoise(plain, pixels, noise="any")
    assert (found == pixels).all()
    assert report.sigma == 0
    assert plain.seen == []


def test_a_strength_of_0_changes_nothing_and_says_so():
    plain = Plain()
    pixels = noisy(40, 40, 3)
    found, report = denoise(plain, pixels, strength=0)
    assert found is pixels
    assert report.skipped == "strength"
    assert report.sigma > 10
    assert plain.seen == []


def test_a_clean_picture_is_left_and_said_to_be_clean():
    plain = Plain()
    pixels = np.tile(np.arange(50, 150, dtype=np.uint8)[None, None, :, None], (1, 60, 1, 3))
    found, report = denoise(plain, pixels, noise="auto")
    assert found is pixels
    assert report.skipped == "clean"
    assert plain.seen == []


def test_a_clean_picture_is_denoised_where_any_is_to_be():
    pixels = np.tile(np.arange(50, 90, dtype=np.uint8)[None, None, :, None], (1, 40, 1, 3))
    found, report = denoise(Plain(), pixels, noise="any")
    assert report.skipped is None
    assert (found != pixels).any()


def test_grey_comes_out_as_grey_in_three_channels_does():
    pixels = noisy(40, 45, 1)
    found, _ = denoise(Plain(), pixels, side=64)
    in_color, _ = denoise(Plain(), np.repeat(pixels, 3, axis=3), side=64)
    assert found.shape == pixels.shape
    assert (found[..., 0] == in_color.astype(float).mean(axis=3).round()).all()


def test_every_frame_of_an_animation_is_denoised():
    plain = Plain()
    pixels = noisy(41, 70, 3, frames=3)
    found, _ = denoise(plain, pixels, side=64, batch=4)
    for frame, made in zip(pixels, found, strict=True):
        assert np.abs(made.astype(int) - expected(plain, frame)).max() <= 1


def test_noise_that_begins_after_a_clean_frame_is_found():
    pixels = noisy(40, 60, 3, frames=4)
    pixels[0] = 255
    assert Restoration(pixels).report.sigma == pytest.approx(20, rel=0.2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_picture_of_one_pixel_is_clean_and_can_be_denoised_all_the_same(channels, dtype):
    pixels = np.full((1, 1, 1, channels), 200, dtype)
    assert denoise(Plain(), pixels, noise="auto")[1].skipped == "clean"
    assert denoise(Plain(), pixels)[0].shape == pixels.shape


def test_the_input_is_never_written_to():
    pixels = noisy(50, 70, 4)
    pixels.flags.writeable = False
    before = pixels.copy()
    denoise(Plain(), pixels, side=64)
    assert (pixels == before).all()


def test_tiles_may_come_back_in_any_order():
    plain = Plain()
    pixels = noisy(67, 91, 3)
    restoration = Restoration(pixels, side=64)
    tiles = list(restoration.tiles())
    assert len(tiles) == len(restoration) > 4
    for tile in reversed(tiles):
        assert tile.pixels.shape == restoration.shape
        assert tile.pixels.flags.c_contiguous
        restoration.put(tile, plain.denoise(tile.pixels[None], np.ones(1, np.float32))[0])
    assert (restoration.output == denoise(plain, pixels, side=64)[0]).all()


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_a_strength_out_of_range_is_refused(strength):
    with pytest.raises(ValueError, match="strength"):
        Restoration(noisy(10, 10, 3), strength)


@pytest.mark.parametrize("shape", [(10, 10, 3), (1, 10, 10, 5), (1, 0, 10, 3), (0, 10, 10, 3)])
def test_what_is_no_picture_is_refused(shape):
    with pytest.raises(ValueError, match="shape"):
        Restoration(np.zeros(shape, np.uint8))


def test_floating_point_is_refused():
    with pytest.raises(ValueError, match="float32"):
        Restoration(np.zeros((1, 8, 8, 3), np.float32))
