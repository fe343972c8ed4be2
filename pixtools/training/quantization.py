"""Quantization-aware training: DnCNN as an engine runs it with some layers in int8, which halves their time on a CPU.

An engine clips what an int8 layer reads to 0..1 and rounds it to even steps. The training prepares for that in two
steps. First, each channel that an int8 layer reads is divided by its largest value, and the kernels that read it are
multiplied by the same number. Because of the ReLU, the network stays the same (M. Nagel et al., "Data-Free Quantization
Through Weight Equalization and Bias Correction", ICCV 2019). Then the training continues with clipped and rounded
values, and the gradient passes the rounding unchanged (B. Jacob et al., "Quantization and Training of Neural Networks
for Efficient Integer-Arithmetic-Only Inference", CVPR 2018).
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
"""The int8 layers: those that lose least when they alone are in int8. All 18 inner layers in int8 lose at least 0.1 dB,
and training regains little of it."""

CLIPPED_AT = 0.8  # of the largest activation: finer steps outweigh the loss by clipping
MIN_MAXIMUM = 1e-6  # smaller maxima count as this, because steps between 0 and 0 would have no size

Maxima = dict[int, Tensor]
"""For each int8 layer, by its number: the value at which each channel that it reads is clipped, (64,)."""


@torch.no_grad()
def measure_maxima(network: DnCNN, pictures: Iterable[Tensor]) -> Maxima:
    """Run the network on noisy pictures, float (N, 3, H, W), and return the maxima of what LAYERS read."""
    largest: Maxima = {}
    for picture in pictures:
        hidden = picture
        for index, module in enumerate(network.model):
            hidden = module(hidden)
            reader = index // 2 + 1  # the layer that reads this output
            if isinstance(module, nn.ReLU) and reader in LAYERS:
                highest = hidden.amax((0, 2, 3))
                largest[reader] = torch.maximum(largest.get(reader, highest), highest)
    # A channel that is always near 0 has a lower bound, because `scaled` divides by the maximum.
    return {
        layer: highest.clamp(min=max(MIN_MAXIMUM, 1e-3 * highest.max().item())) * CLIPPED_AT
        for layer, highest in largest.items()
    }


def scaled(weights: dict[str, Tensor], maxima: Maxima) -> dict[str, Tensor]:
    """Return weights of the same network in which every channel that an int8 layer reads is clipped at 1."""
    result = dict(weights)
    for layer, maximum in maxima.items():
        writer, reader = f"model.{2 * layer - 2}", f"model.{2 * layer}"
        result[f"{writer}.weight"] = result[f"{writer}.weight"] / maximum.view(-1, 1, 1, 1)
        result[f"{writer}.bias"] = result[f"{writer}.bias"] / maximum
        result[f"{reader}.weight"] = result[f"{reader}.weight"] * maximum.view(1, -1, 1, 1)
    return result


def predict(weights: dict[str, Tensor], layers: Collection[int], noisy: Tensor) -> Tensor:
    """Predict the noise, (N, 3, H, W) in bfloat16, with scaled weights and `layers` in int8, as an engine does.

    Rounded activations are whole numbers of 0..255, which bfloat16 represents exactly. It rounds kernels and sums once
    more, which an engine does not.
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


def rounded(values: Tensor) -> Tensor:
    """Clip to 0..255 and round to whole numbers. The gradient is passed on for values that are not clipped."""
    result: Tensor = _Rounded.apply(values)  # type: ignore[no-untyped-call]
    return result


def _rounded_kernels(kernels: Tensor) -> Tensor:
    """Round kernels to 127 even steps on each side of 0, up to the largest value of their output channel."""
    step = kernels.detach().abs().amax((1, 2, 3), keepdim=True).clamp(min=MIN_MAXIMUM) / KERNEL_STEPS
    nearest: Tensor = (kernels / step).round() * step
    return kernels + (nearest - kernels).detach()


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        context.save_for_backward((values > 0) & (values < ACTIVATION_STEPS))
        return values.clamp(0, ACTIVATION_STEPS).round_()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        (inside,) = context.saved_tensors
        masked: Tensor = gradient * inside
        return masked
