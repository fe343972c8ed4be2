"""The noise of a picture at several scales, for luma and chroma separately."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixtools.denoising.engine import BLOCK, LUMA, SCALES

CLEAN_SIGMA = 2.0
"""A picture with a `sigma` below this value is clean. This value was tested with 46 clean photos that were not used for
training. One of them has a `sigma` of 2.1. The others have at most 1.6: see the model card."""

COARSE_RATIO, COARSE_LUMA = 1.5, 10.0
"""Noise is coarse if its luma at the largest scale is above COARSE_LUMA, and above COARSE_RATIO times its luma at the
smallest scale. With these numbers, most patches with strong grain of a blur of 0.8 to 2 pixels get two passes. Most
patches with noise of cameras get one pass: see the model card."""

FOUND_QUANTILE, REMAINING_QUANTILE = 0.5, 0.1
"""The noise of a picture is the median over its blocks. The noise that is left is taken from the smoothest blocks,
because the others show texture."""

# The variance of the noise of a channel is luma² + _CHROMA_SHARE · chroma², if the channels have the same variance, and
# each two of them the same correlation. For white noise of variance 1, luma² is _WHITE_LUMA, and chroma² is
# 1 + _WHITE_LUMA - 2/3. For grey noise, luma² is 1, and chroma² is 0.
_WHITE_LUMA = sum(weight**2 for weight in LUMA)
_CHROMA_SHARE = (1 - _WHITE_LUMA) / (1 + _WHITE_LUMA - 2 / len(LUMA))


@dataclass(frozen=True)
class MeasuredNoise:
    """Standard deviations on a scale of 0 to 255, at each of SCALES: see `Denoised`.

    White noise has the same standard deviation at all scales. The noise of a camera is coarser, so its numbers grow
    with the scale.
    """

    luma: tuple[float, ...]
    chroma: tuple[float, ...]

    @staticmethod
    def of(blocks: Sequence[NDArray[np.float32]], quantile: float) -> MeasuredNoise:
        """Return the noise at a quantile of the blocks. `blocks` are arrays (n, 6) of mean squares, as in Denoised.

        The caller gives at least one block.
        """
        squares = np.quantile(np.concatenate(blocks), quantile, axis=0).clip(0)  # rounding may leave -0.0000001
        luma, chroma = (255 * np.sqrt(squares)).reshape(2, -1).tolist()
        return MeasuredNoise(tuple(luma), tuple(chroma))

    @property
    def sigma(self) -> float:
        """The standard deviation of a channel, at the scale with the most noise."""
        scales = zip(self.luma, self.chroma, strict=True)
        return math.sqrt(max(luma**2 + _CHROMA_SHARE * chroma**2 for luma, chroma in scales))

    @property
    def is_clean(self) -> bool:
        """Whether there is hardly any noise."""
        return self.sigma < CLEAN_SIGMA

    @property
    def is_coarse(self) -> bool:
        """Whether the noise is strong and coarse. Two passes remove more of this noise than one pass."""
        return self.luma[-1] > max(COARSE_LUMA, COARSE_RATIO * self.luma[0])

    def as_result(self) -> dict[str, Any]:
        """Return the numbers as the API shows them."""
        return {"scale": list(SCALES)} | {
            name: [round(number, 1) for number in numbers] for name, numbers in vars(self).items()
        }


def variation(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the variation of a picture (h, w, 3), where 0..1 is black to white: see Denoised."""
    height, width = (length // BLOCK * BLOCK for length in picture.shape[:2])
    picture = picture[:height, :width]
    luma = picture @ np.array(LUMA, np.float32)[:, None]
    numbers = []
    for part in (luma, picture - luma):
        for scale in SCALES:
            reduced = in_blocks(part, scale).mean(axis=(1, 3))
            numbers.append(in_blocks(reduced, BLOCK // scale).var(axis=(1, 3)).mean(axis=-1) * scale**2)
    return np.stack(numbers, axis=-1)


def in_blocks(array: NDArray[np.generic], side: int) -> NDArray[Any]:
    """Divide an array (H, W, …) into squares: (H / side, side, W / side, side, …)."""
    height, width = array.shape[:2]
    return array.reshape(height // side, side, width // side, side, *array.shape[2:])
