"""How much noise a picture has, from the picture alone."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

CLEAN = 2.5
"""Standard deviations below this are those of clean pictures; see `estimate` for how many are above."""

LEAST_SIDE = 16
"""Pixels: in a smaller picture there is too little to tell noise from what is drawn."""

_SIDE = 8  # of blocks, in pixels
_MOST_BLOCKS = 16_384  # a megapixel of samples
_SMOOTHEST = 0.01  # of all blocks: those by which noise is measured
_FEWEST = 100  # blocks among them, if that is no more than a quarter of all
_CLIPPED = (0.05, 0.5)  # how much of a block may be black or white: what most pictures allow, and very noisy ones

_AT = np.arange(_SIDE)
_DCT = np.where(_AT == 0, math.sqrt(0.5), 1)[:, None] * np.cos(np.pi * (2 * _AT + 1) * _AT[:, None] / (2 * _SIDE)) / 2
_BASIS = np.kron(_DCT, _DCT).astype(np.float32)  # (64, 64): a block's coefficients from its pixels
_FREQUENCY = np.add.outer(_AT, _AT).ravel()
_LOW, _HIGH = _BASIS[(_FREQUENCY > 0) & (_FREQUENCY <= _SIDE)], _BASIS[_FREQUENCY > _SIDE]


def estimate(
    pixels: NDArray[np.uint8] | NDArray[np.uint16],
    alpha: NDArray[np.uint8] | NDArray[np.uint16] | None = None,
) -> float:
    """Return the standard deviation of white noise in a picture, in levels of 255.

    uint8 or uint16 (H, W) or (H, W, C), and its alpha (H, W): where that is 0 nothing is looked at. 0.0 for what is too
    small to tell, or drawn in flat colours. Of several channels it is the median.

    M. Colom, A. Buades, "Analysis and Extension of the Ponomarenko et al. Method", Image Processing On Line 3, 2013:
    of blocks of 8 × 8 spread over the picture, those with least energy in the low frequencies of their cosine transform
    are smooth, and what they have in the high ones is noise. Blocks that touch black or white are left out, as their
    noise is cut off, and those of one colour.
    """
    planes = pixels if pixels.ndim == 3 else pixels[..., None]  # noqa: PLR2004 (H, W, C)
    if min(planes.shape[:2]) < LEAST_SIDE:
        return 0.0
    seen = None if alpha is None else _blocks(alpha).min(axis=1) > 0
    found = []
    for channel in range(planes.shape[2]):
        blocks = _blocks(planes[..., channel])  # (n, 64)
        found.append(_of_channel(blocks if seen is None else blocks[seen], np.iinfo(pixels.dtype).max))
    return float(np.median(found))


def _blocks(plane: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return (n, 64): blocks on a grid that is not that of JPEG, whose blocks have lost their high frequencies."""
    places = np.lib.stride_tricks.sliding_window_view(plane, (_SIDE, _SIDE))
    step = math.ceil(math.sqrt(places.shape[0] * places.shape[1] / _MOST_BLOCKS))
    step += step > 1 and step % 2 == 0  # with an odd step all places relative to that grid occur
    return places[::step, ::step].reshape(-1, _SIDE * _SIDE)


def _of_channel(blocks: NDArray[np.generic], top: int) -> float:
    flat = blocks.min(axis=1) == blocks.max(axis=1)
    clipped = ((blocks == 0) | (blocks == top)).mean(axis=1)
    for most in _CLIPPED:
        usable = ~flat & (clipped <= most)
        count = np.count_nonzero(usable)
        if count <= np.count_nonzero(flat & (clipped == 0)):
            return 0.0  # noise leaves no block of one colour, unless it is cut off
        if count >= len(blocks) // 50:
            return _of_blocks(blocks[usable].astype(np.float32) * np.float32(255 / top))
        if np.count_nonzero(flat) > len(blocks) // 2:
            return 0.0  # a page of text
    return 0.0


def _of_blocks(blocks: NDArray[np.float32]) -> float:
    energy = np.square(blocks @ _LOW.T).sum(axis=1)
    number = max(int(_SMOOTHEST * len(blocks)), min(_FEWEST, -(-len(blocks) // 4)))
    smoothest = blocks[np.argpartition(energy, number - 1)[:number]]
    variances = np.square(smoothest @ _HIGH.T).mean(axis=0)  # of each frequency
    return math.sqrt(float(np.median(variances)))
