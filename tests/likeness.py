"""Measures how alike two pictures look.

SSIMULACRA2 compares the structure. The colours are compared by the largest shift of a patch.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cache

import numpy as np
from color_math import SRGB, Pixels
from PIL import Image
from ssimulacra2 import compute_ssimulacra2

_PATCH = 16
_FLARE = 0.005  # light that every screen adds; without this light, black and nearly black would be far apart

# The matrices of Björn Ottosson that convert linear sRGB to OKLab.
_TO_LMS = np.array(
    [(0.4122214708, 0.5363325363, 0.0514459929), (0.2119034982, 0.6806995451, 0.1073969566),
     (0.0883024619, 0.2817188376, 0.6299787005)],
)  # fmt: skip
_TO_LAB = np.array(
    [(0.2104542553, 0.7936177850, -0.0040720468), (1.9779984951, -2.4285922050, 0.4505937099),
     (0.0259040371, 0.7827717662, -0.8086757660)],
)  # fmt: skip


@dataclass(frozen=True)
class Likeness:
    """The result of a comparison.

    `score` is 100 for equal pictures, 90 if the difference is invisible, and 70 for high quality. `shift` compares the
    mean colours of patches of 16 × 16 pixels. It is the largest distance between two means in OKLab, in hundredths. A
    shift of 2 is just noticeable. Codecs change pixels but keep the means of patches. A wrong profile shifts the means.
    """

    score: float
    shift: float

    def __str__(self) -> str:
        return f"{self.score:.1f} ({self.shift:.1f})"


def likeness(one: Pixels, other: Pixels) -> Likeness:
    """Compare two sRGB pictures, uint8 (H, W, 3)."""
    assert one.shape == other.shape, (one.shape, other.shape)
    return Likeness(_score(_png(one), _png(other)), shift(one, other))


def shift(one: Pixels, other: Pixels) -> float:
    """Return the `shift` of `Likeness`."""
    return float(np.sqrt(((_patches(one) - _patches(other)) ** 2).sum(axis=-1)).max() * 100)


def _patches(pixels: Pixels) -> np.ndarray:
    """Return the OKLab colour of the mean light of each patch, (H / 16, W / 16, 3)."""
    height, width = (side // _PATCH * _PATCH for side in pixels.shape[:2])
    light = SRGB.linear(pixels[:height, :width] / 255)
    means = light.reshape(height // _PATCH, _PATCH, width // _PATCH, _PATCH, 3).mean(axis=(1, 3))
    return np.cbrt((means + _FLARE) @ _TO_LMS.T) @ _TO_LAB.T


@cache
def _score(one: bytes, other: bytes) -> float:
    return float(compute_ssimulacra2(io.BytesIO(one), io.BytesIO(other)))


def _png(pixels: Pixels) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(out, "PNG", compress_level=0)
    return out.getvalue()
