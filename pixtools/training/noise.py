"""Noisy copies of patches for the training: the kinds of noise, and how often each kind occurs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from pixtools.training.camera import Camera, chance
from pixtools.training.filters import blur, jpeg, luma_and_chroma, resize

MARGIN = 16
"""Most patches are first cut with this many additional rows and columns. After the noise is added, these are cut off.
This removes the edges, where the noise of a camera differs. And the patch can begin inside a block of a JPEG."""

MAX_SIGMA = 55.0  # of white noise, in levels of 255, as in the paper
SIGMA_POWER = 0.55  # of the distribution of sigmas; with 0.5 the network is worse at sigma 15, with 0.6 at sigma 50
GREY_SHARE, COARSE_SHARE = 0.12, 0.13  # of patches with white noise: grey patches, and noise with coarse colours

_EDGE = 4  # the noise of a camera differs in this many rows and columns at each edge

Random = np.random.Generator
Pair = tuple[Tensor, Tensor]
"""A clean patch and its noisy copy: float32 (3, H, W), where 0..1 is black to white. The noisy copy is not clipped."""


class Source(Protocol):
    """Photos from which patches are cut."""

    def patch(self, side: int, random: Random, *, whole: bool = False) -> NDArray[np.uint8]:
        """Cut a patch (side, side, 3). With `whole`, the photo has its full size."""
        ...


def pair(photos: Source, side: int, random: Random) -> Pair:
    """Cut a patch with `side` × `side` pixels, and add noise of a random kind."""
    choice = random.random()
    for share, kind in KINDS:
        choice -= share
        if choice < 0:
            return kind(photos, side, random)
    return KINDS[-1][1](photos, side, random)


def white(photos: Source, side: int, random: Random) -> Pair:
    """White Gaussian noise, with sigmas up to MAX_SIGMA.

    Strong noise is more frequent than weak noise, because strong noise needs the longest training: the network must use
    wider surroundings. Some patches become grey, and their noise is the same in all channels. In some other patches,
    the colours of the noise have half the resolution, as in most JPEGs. Without these patches, the network takes grey
    noise and coarse noise for texture.
    """
    clean, noise = _floats(photos.patch(side, random)), _normal(side, random)
    choice = random.random()
    if choice < GREY_SHARE:
        clean, noise = _grey(clean), noise[:1]
    elif choice < GREY_SHARE + COARSE_SHARE:
        luma, chroma = luma_and_chroma(noise)
        noise = luma + interpolate(avg_pool2d(chroma[None], 2), scale_factor=2, mode="nearest")[0]
    return clean, clean + noise * (random.random() ** SIGMA_POWER * MAX_SIGMA / 255)


def camera(photos: Source, side: int, random: Random) -> Pair:
    """Noise of a random camera. Some pictures are soft, or were scaled. Most were saved as JPEGs, some twice."""
    clean, noisy = _scaled_camera(photos, side + MARGIN, random)
    if chance(random, 0.05):
        clean, noisy = _grey(clean), _grey(noisy)
    noisy = noisy.clamp(0, 1)
    if chance(random, 0.8):
        noisy = jpeg(noisy, int(random.integers(86, 99)), "4:2:2")
    return _saved_again(clean, noisy, side, random)


def grain(photos: Source, side: int, random: Random) -> Pair:
    """Grain of film or of a scanner: Gaussian noise that is blurred, and partly the same in all channels."""
    clean, noise = _floats(photos.patch(side + MARGIN, random)), _normal(side + MARGIN, random)
    if chance(random, 0.3):
        clean = _grey(clean)
        noise = noise[:1]
    else:
        common = random.random()
        noise = common * noise[:1] + (1 - common) * noise
    noise = blur(noise, random.uniform(0.3, 1.4))
    noise = noise / noise.std() * (30 / 255 * random.random())
    if chance(random, 0.5):
        noise = noise * (0.4 + 2.4 * clean * (1 - clean))  # strongest in middle tones, as on film
    return _saved_again(clean, (clean + noise).clamp(0, 1), side, random)


def nearly_clean(photos: Source, side: int, random: Random) -> Pair:
    """Almost no noise: sigmas below one level. So the network learns to leave clean pictures as they are."""
    clean = _floats(photos.patch(side + MARGIN, random))
    noisy = (clean + _normal(side + MARGIN, random) * (random.random() / 255)).clamp(0, 1)
    if chance(random, 0.5):
        noisy = jpeg(noisy, int(random.integers(88, 101)), "4:2:0" if chance(random, 0.5) else "4:4:4")
    return _cut(clean, noisy, side, random)


KINDS: tuple[tuple[float, Callable[[Source, int, Random], Pair]], ...] = (
    (0.42, white),
    (0.42, camera),
    (0.07, grain),
    (0.09, nearly_clean),
)
"""Each kind of noise, with its share of the patches."""


def _scaled_camera(photos: Source, side: int, random: Random) -> Pair:
    """Return a clean and a noisy picture (3, side, side) of a random camera. Neither was saved as a JPEG."""
    choice, own = random.random(), Camera.random(random)
    if choice < 0.25:  # noqa: PLR2004 (scaled down after the camera, as most pictures of the web)
        clean = _floats(photos.patch(math.ceil(side / random.uniform(0.6, 1)), random, whole=True))
        noise = own.noise(clean, random)
        return resize(clean, side), resize(clean + noise, side)
    if choice < 0.6:  # noqa: PLR2004 (soft, as most pictures in the full size of a camera)
        clean = resize(_floats(photos.patch(math.ceil(side / random.uniform(1, 2)), random)), side)
        return clean, clean + own.noise(clean, random)
    if choice < 0.66:  # noqa: PLR2004 (enlarged after the camera)
        clean = _floats(photos.patch(math.ceil(side / random.uniform(1, 1.6)), random))
        noise = own.noise(clean, random)
        return resize(clean, side), resize(clean + noise, side)
    clean = _floats(photos.patch(side, random))
    return clean, clean + own.noise(clean, random)


def _saved_again(clean: Tensor, noisy: Tensor, side: int, random: Random) -> Pair:
    """Cut the patch, and in half the cases save it as a JPEG first. 75 is the usual quality of libjpeg."""
    top, left = random.integers(_EDGE, size=2)
    clean, noisy = clean[:, top:, left:], noisy[:, top:, left:]
    if chance(random, 0.5):
        quality = 75 if chance(random, 0.5) else int(random.integers(50, 96))
        noisy = jpeg(noisy, quality, "4:2:0")
    else:
        noisy = noisy.mul(255).round().div(255)
    return _cut(clean, noisy, side, random)


def _cut(clean: Tensor, noisy: Tensor, side: int, random: Random) -> Pair:
    """Cut a patch at a random position that has a distance of _EDGE from the edges."""
    first = _EDGE if clean.shape[1] - side >= 2 * _EDGE else 0
    top = random.integers(first, clean.shape[1] - side - first + 1)
    left = random.integers(first, clean.shape[2] - side - first + 1)
    box = (slice(None), slice(top, top + side), slice(left, left + side))
    return clean[box], noisy[box]


def _floats(patch: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(patch.astype(np.float32)).permute(2, 0, 1).contiguous().div_(255)


def _normal(side: int, random: Random) -> Tensor:
    return torch.from_numpy(random.standard_normal((3, side, side), np.float32))


def _grey(picture: Tensor) -> Tensor:
    return picture.mean(0, keepdim=True).expand(3, -1, -1)
