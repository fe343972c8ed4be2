"""What runs the network: one class for each library, all with this face."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Tiles = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.float32]
"""(N, H, W, 3), RGB: 0..255, 0..65535, or 0..1 with whatever noise lies beyond."""


class Engine(Protocol):
    """A loaded network on one device."""

    name: str  # of library, device and precision, as health and benchmarks show it

    def denoise(self, tiles: Tiles, strengths: NDArray[np.float32]) -> Tiles:
        """Return the tiles less `strengths` (N,) times their noise, of the same shape and type.

        Numbers of 8 and 16 bits are clipped and rounded, float32 is neither. Zeros lie beyond the
        edges, as in training.
        """
        ...
