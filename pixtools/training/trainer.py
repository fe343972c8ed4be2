"""The trainer of DnCNN. The trainer holds everything that training changes, so a checkpoint holds its `state_dict`.

The training differs from the paper:

- The inner kernels are optimised by Muon (K. Jordan, 2024, from PyTorch), and the network starts as the identity. With
  both, an hour on a CPU gives the result that Adam with a random start reaches only after days.
- The loss is the mean of log(MSE) over the patches, so that a decibel has the same weight at every noise level.
- The result is the mean of the weights over the last steps (EMA).
- The last quarter of a run trains for int8: see `quantization.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from pixtools.denoising.dncnn import WIDTH, Weights
from pixtools.denoising.torch_network import DnCNN
from pixtools.training import quantization
from pixtools.training.start import start_as_identity

# This is added to the MSE, so that errors below 2 levels count less. These errors are invisible, but their gradients
# would dominate.
FLOOR = (2 / 255) ** 2


@dataclass(frozen=True)
class Schedule:
    """The learning rate over a run: it rises linearly, stays level, and falls linearly to 0."""

    rate: float = 0.01  # the highest rate, for Muon; Adam gets 0.3 times the rate
    rise: float = 0.02  # end of the rise, as a fraction of the run
    level: float = 0.2  # end of the level rate, as a fraction of the run

    def at(self, progress: float) -> float:
        """Return the rate at `progress`, the fraction of the run from 0 to 1."""
        up = progress / self.rise
        down = (1 - progress) / (1 - self.level)
        return self.rate * max(0.0, min(1.0, up, down))


class Trainer:
    """A DnCNN in training on `device`: master weights in float32, computation in bfloat16."""

    def __init__(self, device: str, seed: int, ema: float = 0.998, start: Weights | None = None) -> None:
        """The training begins with the weights `start`. By default, it begins with random weights."""
        self.device, self.seed, self._decay = torch.device(device), seed, ema
        self._network = DnCNN()
        if start:
            self._network.load_state_dict({name: torch.tensor(value) for name, value in start.arrays.items()})
        else:
            start_as_identity(self._network, torch.Generator().manual_seed(seed))
        self._network.to(self.device)
        named = dict(self._network.named_parameters())
        self._shapes = {name: weight.shape for name, weight in named.items()}
        inner = [name for name, shape in self._shapes.items() if shape[:2] == (WIDTH, WIDTH)]
        # Muon needs matrices: (64, 3 · 3 · 64). Viewed as (64, 64, 3, 3), a matrix is channels last in memory.
        matrices = {name: named[name].detach().permute(0, 2, 3, 1).flatten(1) for name in inner}
        rest = {name: weight.detach() for name, weight in named.items() if name not in inner}
        self._weights = {name: value.clone().requires_grad_() for name, value in (matrices | rest).items()}
        self._average = {name: value.detach().clone() for name, value in self._weights.items()}
        self._muon = torch.optim.Muon([self._weights[name] for name in inner], momentum=0.9, weight_decay=0.0)
        self._adam = torch.optim.Adam([self._weights[name] for name in rest])
        self._maxima: quantization.Maxima = {}  # empty until `quantize` is called
        self.steps = 0
        self.pixels = 0

    def step(self, clean: Tensor, noisy: Tensor, rate: float) -> float:
        """Learn from a batch of patches, float32 (N, 3, H, W) in 0..1, and their noisy copies.

        `rate` is the learning rate of Muon. Return the loss: the mean of 10 log10(MSE + FLOOR) over the patches, in dB.
        """
        clean, noisy = (each.to(self.device, non_blocking=True) for each in (clean, noisy))
        predicted = self._predict(self._weights, noisy)
        loss = (predicted - (noisy - clean)).square().mean((1, 2, 3)).add(FLOOR).log10().mean().mul(10)
        loss.backward()  # type: ignore[no-untyped-call]
        for optimizer, factor in ((self._muon, 1.0), (self._adam, 0.3)):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
            optimizer.step()  # type: ignore[no-untyped-call]
            optimizer.zero_grad()
        self.steps += 1
        self.pixels += clean.shape[0] * clean.shape[2] * clean.shape[3]
        with torch.no_grad():
            # Use a smaller decay at first, so that the mean soon forgets the weights of the start.
            decay = min(self._decay, self.steps / (self.steps + 10))
            for name, value in self._weights.items():
                self._average[name].lerp_(value, 1 - decay)
        return loss.item()

    @property
    def int8(self) -> list[int]:
        """The layers that are trained for int8; empty until `quantize` is called."""
        return list(self._maxima)

    def quantize(self, batches: Iterable[Tensor]) -> None:
        """Train for int8 from now on.

        The maxima of activations are measured on `batches`: noisy patches, float32 (N, 3, H, W).

        Raises ValueError if `quantize` was called before.
        """
        if self._maxima:
            raise ValueError("the training for int8 has begun already")
        self._network.load_state_dict(self.averaged())
        noisy = (batch.to(self.device) for batch in batches)
        self._maxima = quantization.measure_maxima(self._network, noisy)

    def _predict(self, weights: dict[str, Tensor], noisy: Tensor) -> Tensor:
        """Predict the noise of noisy pictures: float32 (N, 3, H, W) in and out.

        `weights` have the names and shapes of `_weights`. After a call of `quantize`, the int8 layers clip and round as
        in an engine.
        """
        shaped = {name: self._shape(name, value) for name, value in weights.items()}
        noisy = noisy.bfloat16().contiguous(memory_format=torch.channels_last)
        if self._maxima:
            scaled = quantization.scaled(shaped, self._maxima)
            return quantization.predict(scaled, self._maxima, noisy).float()
        shaped = {name: value.bfloat16() for name, value in shaped.items()}
        noise: Tensor = functional_call(self._network, shaped, (noisy,))
        return noise.float()

    def _shape(self, name: str, value: Tensor) -> Tensor:
        """Return a matrix of Muon in the shape of its kernels, (64, 64, 3, 3). Return every other array unchanged."""
        shape = self._shapes[name]
        return value if value.shape == shape else value.view(shape[0], *shape[2:], shape[1]).permute(0, 3, 1, 2)

    @torch.no_grad()
    def validate(self, sets: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, float]:
        """Denoise pictures with the averaged weights. Return, for each set, the mean PSNR in dB.

        A set holds clean pictures, float32 (N, 3, H, W) in 0..1, and their noisy copies.
        """
        psnr = {}
        for name, (clean, noisy) in sets.items():
            errors = []
            for truth, pictures in zip(clean.split(4), noisy.split(4), strict=True):  # type: ignore[no-untyped-call]
                here = pictures.to(self.device)
                denoised = (here - self._predict(self._average, here)).clamp(0, 1).cpu()
                errors.append((denoised - truth).square().mean((1, 2, 3)))
            psnr[name] = -10 * torch.cat(errors).log10().mean().item()
        return psnr

    def state_dict(self) -> dict[str, Any]:
        """Return everything that training changes."""
        return {
            "weights": {name: value.detach() for name, value in self._weights.items()},
            "average": self._average,
            "muon": self._muon.state_dict(),
            "adam": self._adam.state_dict(),
            "tops": self._maxima,
            "steps": self.steps,
            "pixels": self.pixels,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state that `state_dict` returned."""
        with torch.no_grad():
            for target, values in ((self._weights, state["weights"]), (self._average, state["average"])):
                for name, value in values.items():
                    target[name].copy_(value)
        self._muon.load_state_dict(state["muon"])
        self._adam.load_state_dict(state["adam"])
        self._maxima, self.steps, self.pixels = state["tops"], state["steps"], state["pixels"]

    def averaged(self) -> dict[str, Tensor]:
        """Return the averaged weights, float32, with the names and shapes of `DnCNN`."""
        weights = {name: self._shape(name, value) for name, value in self._average.items()}
        if self._maxima:
            weights = quantization.scaled(weights, self._maxima)
        return {name: value.contiguous().cpu() for name, value in weights.items()}
