"""Estimates how much noise a picture has, from the picture alone."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

CLEAN_SIGMA = 2.5
"""A picture with a lower estimate counts as clean. See `estimate` for clean pictures with higher estimates."""

MIN_SIDE = 32
"""Shortest side that a picture needs, in pixels. A smaller picture has too few blocks to tell noise from texture."""

_BLOCK_SIDE = 8  # pixels
_MAX_BLOCKS = 16_384  # together a megapixel
_SMOOTHEST_SHARE = 0.01  # of all blocks: noise is measured in the smoothest 1 %
_MIN_SMOOTHEST = 100  # blocks, but no more than a quarter of all blocks
# A block is used if at most 5 % of its pixels are black or white. If fewer than 5 % of the blocks pass this test, more
# black or white pixels are allowed, until 5 % of the blocks pass. If this needs more than 50 %, the estimate is 0.
_MAX_CLIPPED, _MAX_CLIPPED_IN_HEAVY_NOISE = 0.05, 0.5
_MIN_USED_SHARE = 0.05
_MAX_FLAT_SHARE = 0.1  # share of blocks with one colour, other than black or white; a drawing has more
_MIN_VARIED_SHARE = 0.1  # share of blocks with several colours; a photo has more, even with a white sky

_INDEX = np.arange(_BLOCK_SIDE)
_DCT = (
    np.where(_INDEX == 0, math.sqrt(0.5), 1)[:, None]
    * np.cos(np.pi * (2 * _INDEX + 1) * _INDEX[:, None] / (2 * _BLOCK_SIDE))
    / 2
)
_BASIS = np.kron(_DCT, _DCT).astype(np.float32)  # (64, 64): turns the pixels of a block into its cosine coefficients
_FREQUENCY = np.add.outer(_INDEX, _INDEX).ravel()
_LOW, _HIGH = _BASIS[(_FREQUENCY > 0) & (_FREQUENCY <= _BLOCK_SIDE)], _BASIS[_FREQUENCY > _BLOCK_SIDE]


def estimate(
    pixels: NDArray[np.uint8] | NDArray[np.uint16],
    alpha: NDArray[np.uint8] | NDArray[np.uint16] | None = None,
) -> float:
    """Return the standard deviation of the white noise in a picture, on a scale of 0 to 255.

    `pixels` are uint8 or uint16, (H, W) or (H, W, C). The result is the median over the channels. `alpha` is (H, W).
    Blocks with a pixel of alpha 0 are ignored. The result is 0.0 if the picture is smaller than MIN_SIDE, or drawn in
    flat colours.

    The method is from M. Colom, A. Buades, "Analysis and Extension of the Ponomarenko et al. Method", Image Processing
    On Line 3, 2013. It takes blocks of 8 × 8 pixels from the whole picture and computes their cosine transform. The
    blocks with the least energy in low frequencies are smooth, so their energy in high frequencies is noise. Two kinds
    of blocks are left out: blocks with black or white pixels, because their noise is clipped, and blocks of one colour.
    An estimate takes at most some 30 ms of one core.

    The table shows estimates for known noise. The noisy pictures were clipped and rounded to 8 bits. The first row has
    the true standard deviation. The other rows have the median and the range of the estimates for a set of pictures:

        true     0              2              3              5              15                25
        Kodak24  1.1 (0.7-1.9)  2.4 (2.1-2.9)  3.3 (3.1-3.7)  5.2 (5.0-5.4)  15.0 (14.6-15.4)  24.7 (23.9-25.5)
        CBSD68   0.5 (0.1-4.7)  2.1 (2.0-4.9)  3.1 (2.9-5.5)  5.1 (4.8-6.9)  15.0 (14.2-16.1)  24.9 (21.6-26.2)

    Without noise, the estimates of all pictures of Kodak24 and of 64 pictures of CBSD68 are below CLEAN_SIGMA. Four
    pictures of CBSD68 have higher estimates, because they have fine texture everywhere. With noise of 3 or more, no
    estimate is below CLEAN_SIGMA. Noise of 50 is clipped in many pixels, so its estimates are too low: 48 (45-50) for
    Kodak24 and 48 (38-51) for CBSD68.

    Other methods find more noise in the clean pictures of Kodak24. Their highest estimates are 8.2 (median of wavelet
    coefficients, Donoho), 13.8 (eigenvalues of patches: Chen, Zhu, Heng, ICCV 2015), 15.6 (filter of Immerkær).

    The method has two limits. In pictures with sides of a few dozen pixels, texture is mistaken for noise more often.
    Noise that was scaled or compressed has lost its high frequencies, so the estimate is too low.
    """
    planes = pixels if pixels.ndim == 3 else pixels[..., None]  # noqa: PLR2004 (H, W, C)
    if min(planes.shape[:2]) < MIN_SIDE:
        return 0.0
    visible = None if alpha is None else _blocks(alpha).min(axis=1) > 0
    sigmas = []
    for channel in range(planes.shape[2]):
        blocks = _blocks(planes[..., channel])  # (n, 64)
        sigmas.append(_sigma_of_channel(blocks if visible is None else blocks[visible], np.iinfo(pixels.dtype).max))
    return float(np.median(sigmas))


def _blocks(plane: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return blocks (n, 64) from the whole plane.

    JPEG compression removes high frequencies from its own blocks of 8 × 8 pixels. Most of the returned blocks lie at
    other positions.
    """
    blocks = np.lib.stride_tricks.sliding_window_view(plane, (_BLOCK_SIDE, _BLOCK_SIDE))
    step = math.ceil(math.sqrt(blocks.shape[0] * blocks.shape[1] / _MAX_BLOCKS))
    step += step > 1 and step % 2 == 0  # with an odd step, all positions relative to the grid of JPEG occur
    return blocks[::step, ::step].reshape(-1, _BLOCK_SIDE * _BLOCK_SIDE)


def _sigma_of_channel(blocks: NDArray[np.generic], white: int) -> float:
    """Return the noise of one channel on a scale of 0 to 255. `blocks` (n, 64) has values from 0 to `white`."""
    flat = blocks.min(axis=1) == blocks.max(axis=1)
    clipped = ((blocks == 0) | (blocks == white)).mean(axis=1)
    # In a noisy picture, the pixels of a block differ, except where noise is clipped to 0 or `white`.
    drawn = np.count_nonzero(flat & (clipped == 0))
    blocks, clipped = blocks[~flat], clipped[~flat]
    if (
        len(flat) == drawn
        or drawn > _MAX_FLAT_SHARE * (len(blocks) + drawn)
        or len(blocks) < len(flat) * _MIN_VARIED_SHARE
    ):
        return 0.0
    max_clipped = max(_MAX_CLIPPED, float(np.quantile(clipped, _MIN_USED_SHARE)))
    if max_clipped > _MAX_CLIPPED_IN_HEAVY_NOISE:
        return 0.0
    return _sigma_of_blocks(blocks[clipped <= max_clipped].astype(np.float32) * np.float32(255 / white))


def _sigma_of_blocks(blocks: NDArray[np.float32]) -> float:
    """Return the noise of the smoothest among `blocks` (n, 64), on the scale of `blocks`."""
    low_energy = np.square(blocks @ _LOW.T).sum(axis=1)
    count = max(int(_SMOOTHEST_SHARE * len(blocks)), min(_MIN_SMOOTHEST, -(-len(blocks) // 4)))
    smoothest = blocks[np.argpartition(low_energy, count - 1)[:count]]
    variances = np.square(smoothest @ _HIGH.T).mean(axis=0)  # one for each high frequency
    return math.sqrt(float(np.median(variances)))
