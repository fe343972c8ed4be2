"""Quantization-aware training, for engines that can run some layers in int8: see `openvino_engine.py`.

An engine clips the input of an int8 layer to 0..1 and rounds it to even steps. The training prepares the network for
this. First, a value is chosen for each input channel of an int8 layer: 0.8 times the largest activation of the channel.
The channel is divided by this value, and the kernels that read the channel are multiplied by this value. Because of the
ReLU, the result of the network does not change (M. Nagel et al., "Data-Free Quantization Through Weight Equalization
and Bias Correction", ICCV 2019). Then the training continues with clipped and rounded activations. The gradient passes
the rounding unchanged (B. Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", CVPR 2018).
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
"""The int8 layers. The loss of quality was measured with one layer in int8 at a time. It is lowest for these eight
layers. With all 18 inner layers in int8, the loss on white noise is at least 0.1 dB, and training regains little of
this loss. With these eight layers, the loss on white noise is at most 0.02 dB, but 0.13 dB on the real photos of PolyU:
see the model card."""

CLIPPED_AT = 0.8  # of the largest activation, because the finer steps gain more quality than the clipping loses
MIN_MAXIMUM = 1e-6  # a smaller maximum is raised to this value, because a maximum of 0 would give steps of size 0

Maxima = dict[int, Tensor]
"""For each int8 layer, by its number: the values (64,) at which its 64 input channels are clipped."""


@torch.no_grad()
def measure_maxima(network: DnCNN, pictures: Iterable[Tensor]) -> Maxima:
    """Run the network on noisy pictures, float (N, 3, H, W). Return the values at which LAYERS clip their input.

    The value of a channel is CLIPPED_AT times its largest activation. A very small maximum is raised first.
    """
    largest: Maxima = {}
    for picture in pictures:
        hidden = picture
        for index, module in enumerate(network.model):
            hidden = module(hidden)
            reader = index // 2 + 1  # the layer that reads this output
            if isinstance(module, nn.ReLU) and reader in LAYERS:
                highest = hidden.amax((0, 2, 3))
                largest[reader] = torch.maximum(largest.get(reader, highest), highest)
    # The largest activation of a channel may be 0 or nearly 0. Raise it, because `scaled` divides by the result.
    return {
        layer: highest.clamp(min=max(MIN_MAXIMUM, 1e-3 * highest.max().item())) * CLIPPED_AT
        for layer, highest in largest.items()
    }


def scaled(weights: dict[str, Tensor], maxima: Maxima) -> dict[str, Tensor]:
    """Scale the weights so that an activation equal to its value in `maxima` becomes 1.

    Without clipping, the result of the network does not change.
    """
    result = dict(weights)
    for layer, maximum in maxima.items():
        writer, reader = f"model.{2 * layer - 2}", f"model.{2 * layer}"
        result[f"{writer}.weight"] = result[f"{writer}.weight"] / maximum.view(-1, 1, 1, 1)
        result[f"{writer}.bias"] = result[f"{writer}.bias"] / maximum
        result[f"{reader}.weight"] = result[f"{reader}.weight"] * maximum.view(1, -1, 1, 1)
    return result


def predict(weights: dict[str, Tensor], layers: Collection[int], noisy: Tensor) -> Tensor:
    """Predict the noise of pictures with scaled weights: bfloat16 (N, 3, H, W) in and out.

    The computation imitates an engine that runs `layers` in int8. Rounded activations are whole numbers of 0..255,
    which bfloat16 represents exactly. But bfloat16 rounds kernels and sums once more, and an engine does not.
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
    """Clip values to 0..255 and round them to whole numbers.

    In training, the gradient of a clipped value is 0. All other gradients stay the same.
    """
    result: Tensor = _Rounded.apply(values)  # type: ignore[no-untyped-call]
    return result


def _rounded_kernels(kernels: Tensor) -> Tensor:
    """Round kernels (out, in, 3, 3) to 127 even steps on each side of 0.

    The last step is the largest absolute value among the kernels of an output channel.
    """
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
