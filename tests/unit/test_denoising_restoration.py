"""These tests check which pixels of a picture are denoised, which pixels stay unchanged, and what the report says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from denoisers import Halving, Plain, random_weights, strengths

from pixtools.denoising.dncnn import load_shipped
from pixtools.denoising.engine import LUMA, Blend
from pixtools.denoising.openvino_engine import OpenVINOEngine
from pixtools.denoising.restoration import MAX_TILE_SIDE, Restoration, denoise
from pixtools.denoising.torch_engine import TorchEngine
from pixtools.training.filters import blur

pytestmark = pytest.mark.heavy

DTYPES = [np.uint8, np.uint16]


def noisy(height, width, channels, dtype=np.uint8, frames=1):
    """Return frames (N, H, W, C) of soft colours with strong noise. The values of an alpha channel are random."""
    rng = np.random.default_rng(11)
    ramp = np.linspace(60, 190, width)[None, None, :, None] + np.arange(frames)[:, None, None, None]
    levels = ramp + rng.normal(0, 20, (frames, height, width, channels))
    white = np.iinfo(dtype).max
    pixels = (levels * (white / 255)).round().clip(0, white).astype(dtype)
    if channels in (2, 4):
        pixels[..., -1] = rng.integers(0, white, pixels.shape[:3], endpoint=True)
    return pixels


def grain(height, width, blur_sigma):
    """Return coarse noise (H, W, 3) with a standard deviation of 15."""
    white = torch.from_numpy(np.random.default_rng(6).normal(0, 1, (3, height, width))).float()
    blurred = blur(white, blur_sigma).permute(1, 2, 0).numpy()
    return 15 * blurred / blurred.std()


def coarse(height, width):
    """Return a frame (1, H, W, 3) of one grey, with coarse noise."""
    return (128 + grain(height, width, 2.0)).round().astype(np.uint8)[None]


def expected(plain, frame, strength=1.0):
    """Return the network's result for an opaque frame that is not cut into tiles."""
    colors = np.repeat(frame, 3, axis=2) if frame.shape[2] == 1 else frame
    row = Blend(strength, strength).as_row()
    (result,) = plain.denoise(np.ascontiguousarray(colors)[None], np.array([row], np.float32)).tiles
    return result.astype(float).mean(axis=2, keepdims=True).round() if frame.shape[2] == 1 else result


def first_tiles(restoration):
    """Return the tiles of the first round. If the picture gets probes, these tiles are the probes."""
    return list(next(restoration.rounds()).tiles)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_a_picture_in_tiles_has_the_same_result_as_in_one_piece(channels, dtype, strength):
    plain = Plain()
    pixels = noisy(67, 91, channels, dtype)
    result, report = denoise(plain, pixels, Blend(strength, strength), side=64, batch=3)
    assert (result.dtype, result.shape) == (dtype, pixels.shape)
    assert report.skipped is None
    ((height, width, colors),) = {shape[1:] for shape in plain.seen}
    assert (height * width <= 64 * 64, colors) == (True, 3)
    # In a tile, numbers are added in another order, so a rounded value may differ by 1, or by 2 in 16 bits.
    assert np.abs(result[0].astype(int) - expected(plain, pixels[0], strength)).max() <= (1 if dtype == np.uint8 else 2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [2, 4])
def test_alpha_and_hidden_colours_stay_unchanged(channels, dtype):
    pixels = noisy(50, 70, channels, dtype)
    pixels[0, :20, :30, -1] = 0
    result, _ = denoise(Plain(), pixels, side=64)
    assert (result[..., -1] == pixels[..., -1]).all()
    assert (result[0, :20, :30] == pixels[0, :20, :30]).all()
    visible = pixels[..., -1] > 0
    assert (result[..., 0] != pixels[..., 0])[visible].mean() > 0.5


def test_hidden_colours_do_not_change_visible_pixels():
    pixels = noisy(50, 70, 4)
    pixels[0, :, :35, 3], pixels[0, :, 35:, 3] = 0, 255
    other = pixels.copy()
    other[0, :, :35, :3] = 255 - other[0, :, :35, :3]
    one, another = (denoise(Plain(), each, noise="any", side=64)[0] for each in (pixels, other))
    assert (one[0, :, 35:] == another[0, :, 35:]).all()


def test_tiles_without_a_visible_pixel_are_not_run():
    plain = Plain()
    pixels = noisy(64, 150, 4)
    pixels[..., 3] = 255
    pixels[0, :, :80, 3] = 0
    result, _ = denoise(plain, pixels, side=64)
    restoration = Restoration(pixels, side=64)
    assert len(plain.seen) == len(first_tiles(restoration)) < len(restoration)
    assert (result[0, :, :80] == pixels[0, :, :80]).all()
    assert (result[0, :, 80:] != pixels[0, :, 80:]).any()


def test_a_fully_transparent_picture_stays_unchanged():
    pixels = noisy(40, 40, 4)
    pixels[..., 3] = 0
    plain = Plain()
    result, report = denoise(plain, pixels, noise="any")
    assert (result == pixels).all()
    assert report.as_result() == {"sigma": None, "denoised": True, "passes": 1, "noise": None, "remaining": None}
    assert plain.seen == []


def test_a_strength_of_0_changes_nothing_and_is_reported():
    plain = Plain()
    pixels = noisy(40, 40, 3)
    result, report = denoise(plain, pixels, Blend(0, 0))
    assert result is pixels
    assert report.skipped == "strength"
    assert report.found == denoise(plain, pixels)[1].found
    assert report.found.sigma > 1


@pytest.mark.parametrize(("height", "width", "calls"), [(60, 100, 1), (1000, 1100, 16)], ids=["small", "large"])
def test_a_picture_in_which_the_engine_finds_hardly_any_noise_is_clean(height, width, calls):
    """A large picture is only probed. A small picture is denoised, and the result is not used."""
    halving = Halving(0.05)
    pixels = noisy(height, width, 3)
    result, report = denoise(halving, pixels, noise="auto")
    assert result is pixels
    assert (report.skipped, report.as_result()["denoised"]) == ("clean", False)
    assert 0 < report.found.sigma < 2
    assert sum(shape[0] for shape in halving.seen) == calls


@pytest.mark.parametrize(("height", "width"), [(60, 300), (1000, 1100)], ids=["small", "large"])
def test_a_picture_in_which_the_engine_finds_noise_is_denoised(height, width):
    pixels = noisy(height, width, 3)
    result, report = denoise(Halving(), pixels, noise="auto")
    assert report.skipped is None
    assert report.found.sigma > 2
    always, other_report = denoise(Halving(), pixels, noise="any")
    assert (result == pixels // 2).all()
    assert (result == always).all()
    assert report == other_report  # so the probes are not measured twice


@pytest.mark.parametrize(("height", "width"), [(200, 5200), (5200, 200), (90, 12_000), (1, 1_000_000)])
def test_a_large_picture_that_is_narrow_is_not_probed(height, width):
    pixels = np.full((1, height, width, 3), 128, np.uint8)
    assert not next(Restoration(pixels, noise="auto").rounds()).is_probing


def test_an_animation_is_probed_in_several_frames():
    """Only the third of four frames has noise."""
    pixels = np.full((4, 500, 520, 3), 128, np.uint8)
    pixels[2] = noisy(500, 520, 3)[0]
    halving = Halving()
    result, report = denoise(halving, pixels, noise="auto", side=256)
    assert halving.seen[0] == (1, 96, 96, 3)
    assert report.skipped is None
    assert (result == pixels // 2).all()


def test_probes_that_show_hidden_pixels_do_not_decide():
    pixels = noisy(500, 2100, 4)
    pixels[..., 3] = 255
    pixels[:, ::8, :, 3] = 0  # each block has hidden pixels
    halving = Halving()
    restoration = Restoration(pixels, noise="auto")
    denoise(halving, pixels, noise="auto")
    assert {shape[1:3] for shape in halving.seen} == {(96, 96), restoration.shape[:2]}


def noisy_between_clean_probes(*clean_probes):
    """Return frames (N, 500, 2100, 4) with strong noise between their probes.

    The first probes of each frame are clean: `clean_probes` has a number for each frame. The other probes are hidden.
    """
    pixels = np.repeat(noisy(500, 2100, 4), len(clean_probes), axis=0)
    pixels[..., 3] = 255
    windows = [tile.window.read for tile in first_tiles(Restoration(noisy(500, 2100, 3), noise="auto"))]
    for frame, clean in enumerate(clean_probes):
        for number, read in enumerate(windows):
            box = slice(read.top, read.bottom), slice(read.left, read.right)
            pixels[frame][box] = 128, 128, 128, 255 if number < clean else 0
    return pixels


@pytest.mark.parametrize(("clean_probes", "decide"), [((3,), False), ((4,), True), ((16, 3), False), ((4, 4), True)])
def test_clean_probes_decide_if_they_show_enough_of_each_frame(clean_probes, decide):
    """A probe has 16 measured blocks, and 64 are enough."""
    _, report = denoise(Halving(), noisy_between_clean_probes(*clean_probes), noise="auto")
    assert report.skipped == ("clean" if decide else None)
    assert (report.found.sigma > 10) == (not decide)


def test_a_picture_with_noise_at_its_probes_is_denoised_even_if_most_of_it_is_clean():
    pixels = np.full((1, 500, 2100, 3), 128, np.uint8)
    for tile in first_tiles(Restoration(pixels, noise="auto")):
        inner, read = tile.window.inner, tile.window.read
        box = (
            slice(read.top + inner.top, read.top + inner.bottom),
            slice(read.left + inner.left, read.left + inner.right),
        )
        pixels[0][box] = noisy(64, 640, 3)[0, :, :64]
    result, report = denoise(Halving(), pixels, noise="auto")
    assert report.skipped is None
    assert report.found.is_clean
    assert (result == pixels // 2).all()


def test_a_large_picture_with_a_strength_of_0_is_only_probed():
    halving = Halving()
    pixels = noisy(500, 2100, 3)
    result, report = denoise(halving, pixels, Blend(0, 0))
    assert result is pixels
    assert report.skipped == "strength"
    assert halving.seen == [(1, 96, 96, 3)] * 16


def test_white_and_black_areas_are_not_measured():
    """Most of the picture is white or black. The noise is clipped there, so it would count as clean."""
    pixels = np.zeros((1, 160, 160, 3), np.uint8)
    pixels[:, :80] = 255
    pixels[:, 48:112, 48:112] = noisy(64, 64, 3)
    _, report = denoise(Halving(), pixels, noise="auto")
    assert report.skipped is None
    assert report.found.sigma > 10


def test_the_grain_that_stays_is_the_same_in_tiles_and_in_one_piece():
    engine = TorchEngine(random_weights(), precision="float32")
    pixels = noisy(67, 91, 3, np.uint16)
    # The network sees 20 pixels around a pixel. The texture of a pixel needs the noise of the two pixels around it.
    windows = [tile.window for side in range(50, 80) for tile in first_tiles(Restoration(pixels, side=side))]
    assert min(window.inner.left for window in windows if window.kept.left > 0) == 22
    blend = Blend(0.3, 0.3, 1)
    in_tiles, _ = denoise(engine, pixels, blend, "white", side=64)
    in_one_piece, _ = denoise(engine, pixels, blend, "white")
    without, _ = denoise(engine, pixels, Blend(0.3, 0.3), "white")
    assert np.abs(in_tiles.astype(int) - in_one_piece).max() <= 2
    assert (without != in_one_piece).mean() > 0.2


def test_a_clean_picture_is_denoised_if_noise_is_any():
    pixels = np.tile(np.arange(50, 90, dtype=np.uint8)[None, None, :, None], (1, 40, 1, 3))
    result, report = denoise(Plain(), pixels, noise="any")
    assert report.skipped is None
    assert (result != pixels).any()


def test_a_grey_picture_has_the_same_result_as_grey_in_three_channels():
    pixels = noisy(40, 45, 1)
    result, _ = denoise(Plain(), pixels, side=64)
    in_color, _ = denoise(Plain(), np.repeat(pixels, 3, axis=3), side=64)
    assert result.shape == pixels.shape
    assert (result[..., 0] == in_color.astype(float).mean(axis=3).round()).all()


def test_every_frame_of_an_animation_is_denoised():
    plain = Plain()
    pixels = noisy(41, 70, 3, frames=3)
    result, _ = denoise(plain, pixels, side=64, batch=4)
    for frame, denoised in zip(pixels, result, strict=True):
        assert np.abs(denoised.astype(int) - expected(plain, frame)).max() <= 1


def test_noise_after_a_clean_first_frame_is_found():
    pixels = noisy(40, 60, 3, frames=4)
    pixels[0] = 128
    one, first, last = (denoise(Plain(), each)[1].found.sigma for each in (pixels, pixels[:1], pixels[2:3]))
    assert one >= last > first


def test_the_noise_that_is_left_is_measured_in_the_smoothest_blocks():
    """One half of the picture has noise of sigma 20, and the other has sigma 6. The engine halves both."""
    pixels = noisy(96, 128, 3)
    pixels[:, :, 64:] = np.random.default_rng(3).normal(120, 6, (1, 96, 64, 3)).round()
    _, report = denoise(Halving(0), pixels)
    of_channels = (0.299**2 + 0.587**2 + 0.114**2) ** 0.5
    assert report.found.sigma == 0
    assert report.remaining.sigma == pytest.approx(3, abs=0.5)
    assert report.remaining.luma[0] == pytest.approx(3 * of_channels, abs=0.35)
    assert "remaining" in report.as_result()


def test_only_visible_blocks_are_measured():
    pixels = noisy(64, 128, 4)
    pixels[..., 3] = 255
    pixels[:, :, 64:, :3] //= 2
    half = pixels.copy()
    half[0, :, 64:, 3] = 0
    measured, whole, left = (denoise(Halving(), each)[1].found for each in (half, pixels, pixels[:, :, :64]))
    assert measured == left != whole


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_picture_of_one_pixel_can_be_denoised(channels, dtype):
    pixels = np.full((1, 1, 1, channels), 200, dtype)
    assert denoise(Plain(), pixels)[0].shape == pixels.shape


@pytest.mark.parametrize(
    ("height", "width", "level"), [(15, 900, 120), (900, 15, 120), (64, 64, 255)], ids=["low", "narrow", "white"]
)
def test_auto_leaves_a_picture_unchanged_if_its_noise_cannot_be_measured_and_says_so(height, width, level):
    pixels = np.full((1, height, width, 3), level, np.uint8)
    pixels[0, ::2] -= 2
    result, report = denoise(Plain(), pixels, noise="auto")
    assert result is pixels
    assert report.as_result() == {"sigma": None, "denoised": False, "skipped": "unmeasured", "noise": None}


def test_the_colour_strength_does_not_count_for_a_grey_picture():
    pixels = noisy(40, 45, 2)
    assert denoise(Plain(), pixels, Blend(0, 1))[1].skipped == "strength"
    same = [denoise(Plain(), pixels, Blend(0.5, chroma))[0] for chroma in (0, 0.5, 1)]
    assert (same[0] == same[1]).all()
    assert (same[0] == same[2]).all()


def test_the_network_sees_the_mean_visible_colour_in_place_of_hidden_pixels():
    pixels = noisy(40, 45, 4)
    visible = pixels[0, ..., 3] > 100
    pixels[0, ..., 3] = np.where(visible, 255, 0)
    (tile,) = first_tiles(Restoration(pixels))
    seen = tile.pixels[:40, :45]
    assert (seen[visible] == pixels[0, ..., :3][visible]).all()
    mean = pixels[0, ..., :3][visible].mean(axis=0)
    assert (np.abs(seen[~visible] - mean) < 1).all()


def test_the_input_is_not_modified():
    pixels = noisy(50, 70, 4)
    pixels.flags.writeable = False
    before = pixels.copy()
    denoise(Plain(), pixels, side=64)
    assert (pixels == before).all()


def test_results_may_be_put_in_any_order():
    plain = Plain()
    pixels = noisy(67, 91, 3)
    restoration = Restoration(pixels, side=64)
    rounds = restoration.rounds()
    of_round = next(rounds)
    tiles = list(of_round.tiles)
    assert len(tiles) == len(restoration) > 2
    for tile in reversed(tiles):
        assert tile.pixels.shape == restoration.shape
        assert tile.pixels.flags.c_contiguous
        (result,) = plain.denoise(tile.pixels[None], np.array([Blend().as_row()], np.float32)).each()
        of_round.put(tile, result)
    assert not list(rounds)
    assert (restoration.output == denoise(plain, pixels, side=64)[0]).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(67, 91), (80, 128)], ids=["odd", "even"])
@pytest.mark.parametrize("blend", [Blend(), Blend(0.4, 0.9)], ids=["full", "part"])
def test_two_passes_in_tiles_have_the_same_result_as_in_one_piece(dtype, channels, size, blend):
    pixels = noisy(*size, channels, dtype)
    engine = Plain(coarse=True)
    in_one_piece, report = denoise(engine, pixels, blend)
    in_tiles, in_tiles_report = denoise(engine, pixels, blend, side=64)
    assert report.passes == in_tiles_report.passes == 2
    # The first pass may round to another integer in a tile, and the second pass changes this difference.
    assert np.abs(in_tiles.astype(int) - in_one_piece).max() <= (2 if dtype == np.uint8 else 16)
    assert (denoise(Plain(), pixels, blend)[0] != in_one_piece).mean() > 0.2


def test_coarse_noise_is_found_at_half_the_resolution_and_subtracted():
    """The engine halves each value. So the first pass subtracts a half, and the second keeps a half of the rest."""
    halving = Halving()
    pixels = coarse(160, 224)
    result, report = denoise(halving, pixels)
    assert report.passes == 2
    assert [shape[1:3] for shape in halving.seen] == [(160, 224), (80, 112), (160, 224)]
    smooth = result[0, 20:-20, 20:-20].astype(float)
    assert abs(smooth.mean() - 128 / 4) < 1
    assert report.as_result()["passes"] == 2
    assert report.found == denoise(halving, pixels, Blend(0, 0))[1].found


@pytest.mark.parametrize("noise", ["auto", "any"])
def test_a_large_picture_with_coarse_noise_is_not_denoised_in_one_pass_first(noise):
    halving = Halving()
    pixels = coarse(2000, 2048)
    _, report = denoise(halving, pixels, noise=noise, side=1024)
    assert report.passes == 2
    assert [shape[1:3] for shape in halving.seen[:17]] == [(96, 96)] * 16 + [(1000, 1024)]
    restoration = Restoration(pixels, noise=noise, side=1024)
    before = len(restoration)
    for of_round in restoration.rounds():
        for tile in of_round.tiles:
            (result,) = halving.denoise(tile.pixels[None], np.array([of_round.blend.as_row()], np.float32)).each()
            of_round.put(tile, result)
    assert len(restoration) == 1 + before
    assert len(halving.seen) == 2 * (16 + len(restoration))


def test_any_measures_a_picture_below_four_megapixels_without_probes():
    halving = Halving()
    denoise(halving, noisy(1000, 1100, 3))
    assert (1, 96, 96, 3) not in halving.seen


def test_white_noise_and_a_strength_of_0_never_need_two_passes():
    pixels = coarse(160, 224)
    assert denoise(Halving(), pixels, noise="white")[1].passes == 1
    assert denoise(Halving(), pixels, Blend(0, 0))[1].passes == 0
    assert denoise(Halving(0.02), pixels, noise="auto")[1].passes == 0


@pytest.mark.parametrize(("factor", "passes"), [(0.02, 1), (1, 2)], ids=["weak", "strong"])
def test_weak_coarse_noise_needs_one_pass(factor, passes):
    assert denoise(Halving(factor), coarse(160, 224))[1].passes == passes


@pytest.mark.parametrize("channels", [1, 3])
def test_a_part_of_the_noise_is_put_back_after_two_passes(channels):
    pixels = noisy(80, 128, channels)
    full = denoise(Plain(coarse=True), pixels)[0].astype(float)
    half, report = denoise(Plain(coarse=True), pixels, Blend(0.5, 0.5))
    assert np.abs(half - (pixels + full) / 2).max() <= 1
    left = strengths(np.repeat(half, 3 // channels, axis=3) / np.float32(255), centred=True).reshape(-1, 6)
    expected = 255 * np.quantile(left, 0.1, axis=0) ** 0.5
    assert report.remaining.luma == pytest.approx(expected[:3], rel=0.05)
    if channels == 3:
        assert report.remaining.chroma == pytest.approx(expected[3:], rel=0.05)


def test_luma_and_colour_noise_are_put_back_separately_after_two_passes():
    pixels = noisy(80, 128, 3)
    luma_weights = np.array(LUMA)
    full, only_chroma = (denoise(Plain(coarse=True), pixels, each)[0].astype(float) for each in (Blend(), Blend(0, 1)))
    inside = ((full > 0) & (full < 255)).all(axis=3) & ((only_chroma > 0) & (only_chroma < 255)).all(axis=3)
    assert inside.mean() > 0.5
    assert np.abs((only_chroma @ luma_weights - pixels @ luma_weights)[inside]).max() <= 1
    chroma = [each - (each @ luma_weights)[..., None] for each in (full, only_chroma)]
    assert np.abs((chroma[0] - chroma[1])[inside]).max() <= 1.5


def test_hidden_colours_do_not_change_visible_pixels_in_two_passes():
    pixels = noisy(60, 80, 4)
    pixels[0, :, :41, 3], pixels[0, :, 41:, 3] = 0, 255
    other = pixels.copy()
    other[0, :, :41, :3] = 255 - other[0, :, :41, :3]
    (one, report), (another, _) = (denoise(Plain(coarse=True), each, side=64) for each in (pixels, other))
    assert report.passes == 2
    assert (one[0, :, 41:] == another[0, :, 41:]).all()
    assert (one[0, :, :41] == pixels[0, :, :41]).all()


def test_every_frame_of_an_animation_is_denoised_in_two_passes():
    pixels = noisy(50, 70, 3, frames=2)
    both, report = denoise(Plain(coarse=True), pixels)
    each = [denoise(Plain(coarse=True), frame[None])[0] for frame in pixels]
    assert report.passes == 2
    assert (both == np.concatenate(each)).all()


class Coarse(TorchEngine):
    """An engine with random weights. It reports luma noise that is three times as strong at the largest scale."""

    def __init__(self):
        super().__init__(random_weights(), precision="float32")

    def denoise(self, tiles, blends):
        result = super().denoise(tiles, blends)
        noise = result.noise.copy()
        noise[..., 2] = 9 * noise[..., 0]
        return replace(result, noise=noise)


def test_grain_in_texture_stays_after_two_passes():
    pixels = noisy(67, 91, 3, np.uint16)
    blends = Blend(), Blend(1, 1, 1), Blend(0.5, 0.5, 1)
    (full, report), (kept, _), (part, _) = (denoise(Coarse(), pixels, blend) for blend in blends)
    assert report.passes == 2
    assert (full != kept).mean() > 0.1
    assert np.abs(part - (pixels.astype(float) + kept) / 2).max() <= 1


def test_the_tiles_at_half_the_resolution_are_not_larger_than_those_of_the_picture():
    restoration = Restoration(np.tile(coarse(450, 462), (1, 8, 8, 1)))
    rounds, halving = restoration.rounds(), Halving()
    probes = next(rounds)
    for tile in probes.tiles:
        (result,) = halving.denoise(tile.pixels[None], np.array([Blend().as_row()], np.float32)).each()
        probes.put(tile, result)
    at_half = next(rounds)
    assert restoration.report.passes == 2
    height, width, _ = next(at_half.tiles).pixels.shape
    assert 0.5 * MAX_TILE_SIDE**2 < height * width <= MAX_TILE_SIDE**2


@pytest.mark.parametrize("blur_sigma", [1.4, 2.0])
def test_the_shipped_weights_remove_more_coarse_grain_in_two_passes(blur_sigma):
    rows, columns = np.mgrid[:384, :384]
    clean = 128 + 60 * np.sin(rows / 23) * np.cos(columns / 31) + 25 * ((rows // 40 + columns // 40) % 2)
    pixels = (clean[..., None] + grain(384, 384, blur_sigma)).round().clip(0, 255).astype(np.uint8)[None]
    engine = OpenVINOEngine(load_shipped(), 1)
    (one_pass,) = engine.denoise(pixels, np.array([Blend().as_row()], np.float32)).tiles
    result, report = denoise(engine, pixels)
    assert report.passes == 2
    before, after = (np.square(each - clean[..., None]).mean() for each in (one_pass.astype(float), result[0]))
    assert after < before / 1.2


@pytest.mark.parametrize("part", [-0.1, 1.1, float("nan")])
@pytest.mark.parametrize("name", ["luma", "chroma", "detail"])
def test_a_part_out_of_range_is_refused(name, part):
    with pytest.raises(ValueError, match=f"{name} is {part}"):
        Restoration(noisy(10, 10, 3), Blend(**{name: part}))


@pytest.mark.parametrize("shape", [(10, 10, 3), (1, 10, 10, 5), (1, 0, 10, 3), (0, 10, 10, 3)])
def test_an_array_that_is_not_a_picture_is_refused(shape):
    with pytest.raises(ValueError, match="shape"):
        Restoration(np.zeros(shape, np.uint8))


@pytest.mark.parametrize(
    ("frames", "dtype"), [(1, np.uint8), (2, np.uint8), (1, np.uint16)], ids=["8 bits", "animation", "16 bits"]
)
def test_a_large_picture_has_tiles_of_nearly_the_largest_size(frames, dtype):
    height, width, _ = Restoration(np.zeros((frames, 2500, 4000, 3), dtype)).shape

    assert 0.6 * MAX_TILE_SIDE**2 < height * width <= MAX_TILE_SIDE**2


def test_floating_point_is_refused():
    with pytest.raises(ValueError, match="float32"):
        Restoration(np.zeros((1, 8, 8, 3), np.float32))
