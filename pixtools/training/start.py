"""The first weights of a training."""

from __future__ import annotations

import torch
from torch import nn

from pixtools.denoising.dncnn import WIDTH
from pixtools.denoising.torch_network import DnCNN


def start_as_identity(network: DnCNN, generator: torch.Generator) -> None:
    """Set the weights so that the last layer predicts no noise, and all layers before it pass their input on.

    The channels form pairs. One channel carries x and the other carries -x, so a ReLU loses nothing ("looks linear").
    The centres of the inner kernels are orthogonal matrices ("delta orthogonal"). From this start, deep networks
    without normalisation learn much faster (Balduzzi et al., "The Shattered Gradients Problem", 2017; Xiao et al.,
    "Dynamical Isometry and a Mean Field Theory of CNNs", 2018).
    """
    half = WIDTH // 2
    first, *inner, last = [layer for layer in network.model if isinstance(layer, nn.Conv2d)]
    with torch.no_grad():
        for layer in (first, *inner, last):
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # every layer has a bias
        basis = torch.empty(half, first.weight[0].numel())
        nn.init.orthogonal_(basis, generator=generator)
        basis = basis.view(half, *first.weight.shape[1:])
        first.weight.copy_(torch.cat([basis, -basis]))
        for layer in inner:
            # Small random values are added, so that the weights around the centre do not all start at 0. The values
            # have opposite signs in the two channels of a pair, so the channels stay in pairs.
            kernel = torch.randn(half, half, 3, 3, generator=generator) * (0.3 / (9 * half) ** 0.5)
            rotation = torch.empty(half, half)
            nn.init.orthogonal_(rotation, generator=generator)
            kernel[:, :, 1, 1] += rotation
            layer.weight.copy_(torch.cat([torch.cat([kernel, -kernel], 1), torch.cat([-kernel, kernel], 1)]))
        nn.init.zeros_(last.weight)
