"""The noise of the synthetic camera has the statistics of the theory. Each kind of noise gives usable patches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pixtools.training import noise
from pixtools.training.camera import SHOT_VARIANCE, Camera
from pixtools.training.filters import blur, jpeg, luma_and_chroma, resize

pytestmark = pytest.mark.heavy

PLAIN = Camera(
    shot=4e-4,
    read=1e-5,
    to_sensor=torch.eye(3),
    gains=torch.ones(3),
    tone_curve=False,
    malvar=False,
    pattern=(0, 0),
)
"""A camera that changes only the gamma. Its sensor has red, green, green and blue pixels, beginning with red."""


def generator(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


def even(level: float, side: int = 256) -> torch.Tensor:
    return torch.full((3, side, side), level)


def inner(picture: torch.Tensor) -> torch.Tensor:
    """Cut off the pixels near the edges."""
    return picture[..., 8:-8, 8:-8]


def autocorrelation(plane: torch.Tensor, distance: int = 1) -> float:
    """Return the correlation of pixels that are `distance` pixels apart in a row."""
    return ((plane[..., distance:] * plane[..., :-distance]).mean() / plane.square().mean()).item()


@pytest.mark.parametrize("seed", range(20))
def test_development_reverses_the_way_to_the_sensor(seed):
    picture = 0.05 + 0.8 * torch.rand(3, 40, 40, generator=torch.Generator().manual_seed(seed))
    grey = picture.mean(0, keepdim=True) + 0.2 * (picture - picture.mean(0, keepdim=True))
    camera = Camera.random(generator(seed))

    developed = camera.develop(camera.to_raw(grey)[None])[0]

    torch.testing.assert_close(developed, grey, rtol=0, atol=2e-3)


def test_white_stays_white_and_has_no_noise():
    """A sensor is full at white, and full pixels do not vary."""
    camera = replace(PLAIN, gains=torch.tensor([4.0, 2.0, 3.0]))

    assert camera.develop(camera.to_raw(even(1.0, 8))[None]).min() > 0.999
    assert inner(camera.noise(even(0.7), generator())).std() > 0.01
    assert inner(camera.noise(even(1.0), generator())).abs().max() < 1e-6


@pytest.mark.parametrize("malvar", [False, True])
@pytest.mark.parametrize("pattern", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_demosaicking_reproduces_even_and_rising_colours(malvar, pattern):
    camera = replace(PLAIN, malvar=malvar, pattern=pattern)
    y, x = torch.meshgrid(torch.arange(24.0), torch.arange(30.0), indexing="ij")
    slopes = torch.tensor([0.01, 0.01, 0.01] if malvar else [0.005, 0.02, 0.01]).view(3, 1, 1)
    picture = torch.tensor([0.1, 0.3, 0.2]).view(3, 1, 1) + slopes * (x + 0.5 * y)

    sensor = camera.mosaic(picture)
    result = camera.demosaic(sensor[None])[0]

    torch.testing.assert_close(result[:, 3:-3, 3:-3], picture[:, 3:-3, 3:-3], rtol=0, atol=1e-5)
    red = sensor == picture[0]
    assert red[pattern[0], pattern[1]]
    assert red.float().mean() == 0.25


@pytest.mark.parametrize("level", [0.2, 0.5, 0.8])
def test_the_variance_at_a_measured_pixel_is_that_of_light_and_reading(level):
    """At red pixels, red is the value of the sensor. The gamma multiplies its deviation by the slope of the curve."""
    found = PLAIN.noise(even(level, 800), generator())[0, 8:-8:2, 8:-8:2]

    linear = level**2.2
    slope = linear ** (1 / 2.2 - 1) / 2.2
    assert found.std().item() == pytest.approx((PLAIN.shot * linear + PLAIN.read) ** 0.5 * slope, rel=0.03)


def test_bilinear_demosaicking_averages_and_correlates_the_noise_as_its_kernels_say():
    """At a red pixel, green is the mean of four green pixels, so its variance is a quarter of theirs."""
    camera = replace(PLAIN, shot=1e-4, read=0.0)
    red, green, _ = camera.noise(even(0.5, 800), generator())

    measured, estimated = green[8:-8:2, 9:-8:2], green[8:-8:2, 8:-8:2]
    assert (estimated.std() / measured.std()).item() == pytest.approx(0.5, rel=0.05)
    # Along a row with red pixels, every second red value is the mean of its two neighbours. The variances are 1 and
    # 1/2, and the covariance of neighbours is 1/2.
    row = red[8:-8:2, 8:-8]
    assert autocorrelation(row) == pytest.approx(0.5 / 0.75, abs=0.03)
    assert autocorrelation(row, 4) == pytest.approx(0, abs=0.03)


def test_noise_grows_with_light_on_the_sensor_and_is_largest_in_shadows_after_the_gamma():
    dark, bright = (inner(PLAIN.noise(even(level), generator())).std() for level in (0.1, 0.8))

    assert dark > 1.5 * bright


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_a_camera_that_smooths_makes_noise_coarse(sigma):
    """The autocorrelation of blurred white noise is that of the kernel."""
    kernel = np.exp(-(np.arange(-9, 10) ** 2) / (2 * sigma**2))
    expected = (kernel[1:] * kernel[:-1]).sum() / (kernel**2).sum()
    white = torch.from_numpy(generator().standard_normal((1, 600, 600), np.float32))

    assert autocorrelation(inner(blur(white, sigma))) == pytest.approx(expected, abs=0.03)
    smooth, sharp = (
        replace(PLAIN, luma_blur=sigma if smooths else 0.0, sharpening=0.0 if smooths else 1.0).noise(
            even(0.5), generator()
        )
        for smooths in (True, False)
    )
    assert autocorrelation(inner(luma_and_chroma(smooth)[0])) > autocorrelation(inner(luma_and_chroma(sharp)[0])) + 0.1


def test_chroma_is_smoothed_apart_from_luma():
    camera = replace(PLAIN, chroma_blur=2.0)

    (luma, chroma), (same_luma, rough) = (
        luma_and_chroma(each.noise(even(0.5), generator())) for each in (camera, PLAIN)
    )

    torch.testing.assert_close(luma, same_luma, rtol=0, atol=1e-6)
    assert inner(chroma).std() < 0.5 * inner(rough).std()


def test_random_cameras_cover_the_range_of_noise():
    cameras = [Camera.random(generator(seed)) for seed in range(300)]

    shots = np.log([camera.shot for camera in cameras])
    assert np.quantile(shots, [0.05, 0.95]) == pytest.approx(
        [SHOT_VARIANCE[0] * 0.95 + SHOT_VARIANCE[1] * 0.05, SHOT_VARIANCE[0] * 0.05 + SHOT_VARIANCE[1] * 0.95], abs=0.4
    )
    reads = np.log([camera.read for camera in cameras])
    assert np.std(reads - 2.18 * shots - 1.20) == pytest.approx(0.26, rel=0.2)
    assert {camera.pattern for camera in cameras} == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert 0.5 < np.mean([camera.malvar for camera in cameras]) < 0.7


class Gradients:
    """A source of soft pictures."""

    def patch(self, side: int, random: np.random.Generator, *, whole: bool = False) -> np.ndarray:  # noqa: ARG002
        corners = random.integers(20, 236, (2, 2, 3))
        down, across = np.linspace(0, 1, side)[:, None, None], np.linspace(0, 1, side)[None, :, None]
        upper, lower = (corners[row, 0] * (1 - across) + corners[row, 1] * across for row in (0, 1))
        return (upper * (1 - down) + lower * down).round().astype(np.uint8)


@pytest.mark.parametrize("kind", [kind for _, kind in noise.KINDS], ids=lambda kind: kind.__name__)
def test_each_kind_gives_patches_whose_clean_part_is_a_picture(kind):
    random = generator()
    for _ in range(60):
        clean, noisy = kind(Gradients(), 48, random)
        assert clean.shape == noisy.shape == (3, 48, 48)
        assert clean.isfinite().all()
        assert noisy.isfinite().all()
        assert clean.min() >= 0
        assert clean.max() <= 1


def sigmas(kind, count: int = 150) -> np.ndarray:
    random = generator(3)
    pairs = (kind(Gradients(), 48, random) for _ in range(count))
    return np.array([255 * (noisy - clean).std().item() for clean, noisy in pairs])


def test_the_strength_of_each_kind():
    camera = np.quantile(sigmas(noise.camera), [0.05, 0.5, 0.95])
    assert camera[0] < 3
    assert 3 < camera[1] < 9
    assert 12 < camera[2] < 45
    assert sigmas(noise.nearly_clean).max() < 4
    assert np.median(sigmas(noise.white)) == pytest.approx(55 * 0.5**0.55, rel=0.15)
    assert sigmas(noise.grain).max() < 35


def test_the_noise_of_random_cameras_is_correlated_as_in_real_photos():
    """The flat areas of the photos of RNI15 have a lag-1 autocorrelation of 0 to 0.5, and those of JPEGs of cameras
    and phones up to 0.8.
    """
    random, found = generator(4), []
    for _ in range(200):
        luma = inner(luma_and_chroma(Camera.random(random).noise(even(random.uniform(0.2, 0.8), 96), random))[0])
        found.append(autocorrelation(luma - luma.mean()))

    assert np.quantile(found, 0.1) < 0.2
    assert 0.2 < np.median(found) < 0.6
    assert np.quantile(found, 0.9) > 0.6


def test_kinds_are_chosen_by_their_shares(monkeypatch):
    assert sum(share for share, _ in noise.KINDS) == pytest.approx(1)

    drawn: list[str] = []

    def recorder(kind):
        return lambda *_: drawn.append(kind.__name__)

    shares = {kind.__name__: share for share, kind in noise.KINDS}
    monkeypatch.setattr(noise, "KINDS", tuple((share, recorder(kind)) for share, kind in noise.KINDS))
    random = generator()
    for _ in range(10_000):
        noise.pair(Gradients(), 16, random)

    assert {name: drawn.count(name) / 10_000 for name in shares} == pytest.approx(shares, abs=0.02)


def test_a_resized_picture_keeps_its_colours_and_a_saved_one_loses_little():
    picture = torch.from_numpy(Gradients().patch(60, generator())).permute(2, 0, 1).float() / 255

    assert resize(picture, 40).shape == (3, 40, 40)
    torch.testing.assert_close(resize(picture, 40).mean((1, 2)), picture.mean((1, 2)), rtol=0, atol=0.01)
    errors = [(jpeg(picture, quality, "4:2:0") - picture).square().mean() for quality in (95, 40)]
    assert 0 < errors[0] < errors[1] < 1e-3
