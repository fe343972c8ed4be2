"""Quantization-aware training: DnCNN as an engine runs it that has some layers in int8, in half their time on a CPU.

What such a layer reads is then rounded to even steps from 0 to a top. A ReLU lets the channels of an activation be
scaled, if the kernels that read them are scaled back: so all get the same top, and the network stays the same (M. Nagel
et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019). Then it goes on with its
training, rounded and clipped as it will be, the gradient passing the rounding as if there were none (B. Jacob et al.,
"Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", CVPR 2018).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, relu

from pixtools.denoising.dncnn import ACTIVATION_STEPS, DEPTH, KERNEL_STEPS
from pixtools.denoising.torch_network import DnCNN

LAYERS = (1, 3, 4, 6, 7, 10, 15, 16)
"""Those that lose least, each alone. All 18 inner ones cost 0.1 dB and more, and training took little of it away."""

KEPT = 0.8  # of the largest activation seen is the top: finer steps are worth some clipping
TINY = 1e-6  # what is less counts as that: there are no steps between 0 and 0

Tops = dict[int, Tensor]
"""For each layer in int8, by its number: the tops of the channels that it reads, (64,)."""


@torch.no_grad()
def tops(network: DnCNN, pictures: Iterable[Tensor]) -> Tops:
    """Return what LAYERS get to read of noisy pictures, float (N, 3, H, W)."""
    largest: Tops = {}
    for picture in pictures:
        hidden = picture
        for at, module in enumerate(network.model):
            hidden = module(hidden)
            layer = at // 2 + 1  # that reads it
            if isinstance(module, nn.ReLU) and layer in LAYERS:
                reached = hidden.amax((0, 2, 3))
                largest[layer] = torch.maximum(largest.get(layer, reached), reached)
    # What never was anything must not be scaled up without end.
    return {
        layer: reached.clamp(min=max(TINY, 1e-3 * reached.max().item())) * KEPT for layer, reached in largest.items()
    }


def scaled(weights: dict[str, Tensor], tops: Tops) -> dict[str, Tensor]:
    """Return weights of the same network, in which all that layers in int8 read has its top at 1."""
    found = dict(weights)
    for layer, top in tops.items():
        before, reading = f"model.{2 * layer - 2}", f"model.{2 * layer}"
        found[f"{before}.weight"] = found[f"{before}.weight"] / top.view(-1, 1, 1, 1)
        found[f"{before}.bias"] = found[f"{before}.bias"] / top
        found[f"{reading}.weight"] = found[f"{reading}.weight"] * top.view(1, -1, 1, 1)
    return found


def predict(weights: dict[str, Tensor], layers: Collection[int], noisy: Tensor) -> Tensor:
    """Predict the noise, (N, 3, H, W) in bfloat16, with scaled weights and layers in int8, as an engine does.

    bfloat16 holds all whole numbers up to 255: what is rounded goes as these from layer to layer. Kernels and sums
    alone are rounded once more by it, which an engine does not.
    """
    hidden = noisy
    for layer in range(DEPTH):
        kernels, bias = weights[f"model.{2 * layer}.weight"], weights[f"model.{2 * layer}.bias"]
        if layer in layers:
            kernels = _rounded_kernels(kernels) / ACTIVATION_STEPS
        if layer + 1 in layers:
            kernels, bias = kernels * ACTIVATION_STEPS, bias * ACTIVATION_STEPS
        hidden = conv2d(hidden, kernels.bfloat16(), bias.bfloat16(), padding=1)
        if layer + 1 in layers:
            hidden = rounded(hidden)
        elif layer + 1 < DEPTH:
            hidden = relu(hidden)
    return hidden


def rounded(given: Tensor) -> Tensor:
    """Return the whole numbers of 0..255 nearest to what is given; the gradient passes where nothing is clipped."""
    found: Tensor = _Rounded.apply(given)  # type: ignore[no-untyped-call]
    return found


def _rounded_kernels(kernels: Tensor) -> Tensor:
    """Return kernels of 127 even steps to each side of 0, up to the largest that makes the same channel."""
    step = kernels.detach().abs().amax((1, 2, 3), keepdim=True).clamp(min=TINY) / KERNEL_STEPS
    nearest: Tensor = (kernels / step).round() * step
    return kernels + (nearest - kernels).detach()


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, given: Tensor) -> Tensor:
        context.save_for_backward((given > 0) & (given < ACTIVATION_STEPS))
        return given.clamp(0, ACTIVATION_STEPS).round_()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        (inside,) = context.saved_tensors
        masked: Tensor = gradient * inside
        return masked
