"""DnCNN, the network that denoises: its shape and its weights, without the library that runs it.

K. Zhang, W. Zuo, Y. Chen, D. Meng, L. Zhang, "Beyond a Gaussian Denoiser: Residual Learning of Deep CNN for Image
Denoising", IEEE Transactions on Image Processing 26(7), 2017: the blind colour variant, as its authors publish it, with
batch normalisation folded into the convolutions. It is 20 convolutions of 3 × 3, with ReLU between them, and predicts
the noise of a picture in 0..1: 1,334 GFLOP a megapixel.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

CHANNELS, WIDTH, DEPTH = 3, 64, 20
HALO = DEPTH
"""Pixels to each side on which a pixel of the output depends."""

Weights = dict[str, NDArray[np.float32]]
"""By the names and shapes of the published PyTorch checkpoints, in which a ReLU stands between each two layers:
`model.0.weight` (64, 3, 3, 3), `model.0.bias` (64,), `model.2.weight` (64, 64, 3, 3), …, `model.38.weight`
(3, 64, 3, 3)."""


def shapes() -> dict[str, tuple[int, ...]]:
    """Return the shape of every array of the weights, by its name, in the order of the layers."""
    found: dict[str, tuple[int, ...]] = {}
    for layer, (inputs, outputs) in enumerate(pairwise([CHANNELS, *[WIDTH] * (DEPTH - 1), CHANNELS])):
        found[f"model.{2 * layer}.weight"] = (outputs, inputs, 3, 3)
        found[f"model.{2 * layer}.bias"] = (outputs,)
    return found
