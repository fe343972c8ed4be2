"""Halves a picture, and subtracts the noise that the first of two passes finds in the halved picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from pixtools.denoising.engine import WHITE, Pixels
from pixtools.denoising.tiles import Box


def at_half(picture: Pixels) -> Pixels:
    """Halve the sides of a picture (h, w, C). Odd sides are rounded up.

    Average each square of 2 × 2 pixels. At an odd end, the last row or column counts twice.
    """
    even = np.pad(picture, [(0, length % 2) for length in picture.shape[:2]] + [(0, 0)], "edge").astype(np.uint32)
    rows = even[::2] + even[1::2]
    return cast("Pixels", ((rows[:, ::2] + rows[:, 1::2] + 2) // 4).astype(picture.dtype))


@dataclass(frozen=True, eq=False)
class CoarseNoise:
    """Noise that was found at half the resolution: `noisy` minus `clean`, both (N, h, w, 1 or 3)."""

    noisy: Pixels
    clean: Pixels

    def subtract(self, pixels: Pixels, number: int, box: Box) -> None:
        """Subtract the noise of frame `number` from `pixels` (h, w, 3), the area `box` of this frame in its full size.

        The noise is enlarged by linear interpolation.
        """
        height, width = self.noisy.shape[1:3]
        rows, columns = _Enlarged(box.top, box.bottom, height), _Enlarged(box.left, box.right, width)
        area = rows.area, columns.area
        noise = self.noisy[number][area].astype(np.float32) - self.clean[number][area]
        noise = rows.interpolate(noise)
        noise = columns.interpolate(noise.swapaxes(0, 1)).swapaxes(0, 1)
        pixels[...] = (pixels - noise).round().clip(0, WHITE[pixels.dtype])


class _Enlarged:
    """Maps the positions from `begin` to `end` of an axis to another axis that has half the resolution.

    The other axis has `length` positions.
    """

    def __init__(self, begin: int, end: int, length: int) -> None:
        position = np.arange(begin, end)
        near = position // 2
        far = (near + position % 2 * 2 - 1).clip(0, length - 1)  # the neighbour on the same side
        first = min(near[0], far[0])
        self.area = slice(first, max(near[-1], far[-1]) + 1)
        """The positions that `interpolate` needs."""
        self._near, self._far = near - first, far - first

    def interpolate(self, noise: NDArray[np.float32]) -> NDArray[np.float32]:
        """Enlarge the first axis of `noise`. The caller has cut this axis to `area`."""
        enlarged: NDArray[np.float32] = 0.75 * noise[self._near] + 0.25 * noise[self._far]
        return enlarged
