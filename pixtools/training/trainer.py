"""The trainer of DnCNN. The trainer holds everything that training changes, so its `state_dict` is a checkpoint.

The training differs from the paper:

- The inner kernels are optimised by Muon (K. Jordan, 2024, from PyTorch), and the network starts as the identity. With
  both, an hour on a CPU gives the result that Adam with a random start reaches only after days.
- The loss is the mean of log(MSE) over the patches, so that a decibel has the same weight at every noise level.
- The result is the mean of the weights over the last steps (EMA).
- The last quarter of a run trains for int8: see `quantization.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import avg_pool2d, interpolate

from pixtools.denoising.dncnn import WIDTH
from pixtools.denoising.torch_network import DnCNN
from pixtools.training import quantization
from pixtools.training.start import start_as_identity

MAX_SIGMA = 55.0  # in levels of 255, as in the paper
SIGMAS = (15, 25, 50)  # for validation
SIGMA_POWER = 0.55  # of the distribution of sigmas; with 0.5 the network is worse at sigma 15, with 0.6 at sigma 50
GREY_SHARE, COARSE_SHARE = 0.12, 0.13  # shares of grey patches, and of patches with coarse colour noise
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

    def __init__(self, device: str, seed: int, ema: float = 0.998) -> None:
        self.device, self.seed, self._decay = torch.device(device), seed, ema
        self._network = DnCNN()
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

    def step(self, clean: Tensor, rate: float) -> float:
        """Learn from a batch of clean patches, uint8 (N, 3, H, W). `rate` is the learning rate of Muon.

        Return the loss: the mean of 10 log10(MSE + FLOOR) over the patches, in dB.
        """
        clean, noise = self._add_noise(clean, self.steps)
        predicted = self._predict(self._weights, clean + noise)
        loss = (predicted - noise).square().mean((1, 2, 3)).add(FLOOR).log10().mean().mul(10)
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

        `batches` are clean patches, uint8 (N, 3, H, W). The maxima of activations are measured on noisy copies of them.

        Raises ValueError if `quantize` was called before.
        """
        if self._maxima:
            raise ValueError("the training for int8 has begun already")
        noisy = (torch.add(*self._add_noise(clean, number)) for number, clean in enumerate(batches))
        self._network.load_state_dict(self.averaged())
        self._maxima = quantization.measure_maxima(self._network, noisy)

    def _add_noise(self, clean: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """Return the patches `clean`, uint8 (N, 3, H, W), as float32 in 0..1, and noise for them in the same shape.

        The noise is Gaussian and not clipped. Each patch has a random sigma. Both results depend only on `clean`, the
        seed and `number`. Strong noise is more frequent than weak noise, because strong noise needs the longest
        training: the network must use wider surroundings. Most noise is white. Some patches become grey, and their
        noise is the same in all channels. In some other patches, the colour of the noise has half the resolution, as in
        most JPEGs. Without these patches, the network takes grey noise and coarse noise for texture.
        """
        clean = clean.to(self.device, non_blocking=True).float().div_(255)
        generator = torch.Generator(self.device).manual_seed(self.seed * 1_000_003 + number)
        noise = torch.empty_like(clean).normal_(generator=generator)
        random = torch.empty(2, len(clean), 1, 1, 1, device=self.device).uniform_(generator=generator)
        sigma, kind = random[0].pow(SIGMA_POWER) * (MAX_SIGMA / 255), random[1]
        grey, coarse = kind < GREY_SHARE, (kind >= GREY_SHARE) & (kind < GREY_SHARE + COARSE_SHARE)
        noise = torch.where(grey, noise[:, :1], torch.where(coarse, _with_coarse_colors(noise), noise)) * sigma
        return torch.where(grey, clean.mean(1, keepdim=True), clean), noise

    def _predict(self, weights: dict[str, Tensor], noisy: Tensor) -> Tensor:
        """Predict the noise of noisy pictures: float32 (N, 3, H, W) in and out.

        `weights` have the names and shapes of `_weights`. After a call of `quantize`, the int8 layers clip and round as
        in an engine.
        """
        shaped = {name: self._shape(name, value) for name, value in weights.items()}
        noisy = noisy.bfloat16().contiguous(memory_format=torch.channels_last)
        if self._maxima:
            return quantization.predict(quantization.scaled(shaped, self._maxima), self._maxima, noisy).float()
        shaped = {name: value.bfloat16() for name, value in shaped.items()}
        noise: Tensor = functional_call(self._network, shaped, (noisy,))
        return noise.float()

    def _shape(self, name: str, value: Tensor) -> Tensor:
        """Return a matrix of Muon in the shape of its kernels, (64, 64, 3, 3). Return every other array unchanged."""
        shape = self._shapes[name]
        return value if value.shape == shape else value.view(shape[0], *shape[2:], shape[1]).permute(0, 3, 1, 2)

    @torch.no_grad()
    def validate(self, clean: Tensor) -> dict[int, float]:
        """Denoise noisy copies of pictures, uint8 (N, 3, H, W), with the averaged weights.

        Return, for each sigma, the mean PSNR in dB.
        """
        psnr = {}
        for sigma in SIGMAS:
            generator = torch.Generator().manual_seed(sigma)
            errors = []
            for pictures in clean.split(4):  # type: ignore[no-untyped-call]
                truth = pictures.float().div(255)
                noisy = (truth + torch.randn(truth.shape, generator=generator) * (sigma / 255)).to(self.device)
                denoised = (noisy - self._predict(self._average, noisy)).clamp(0, 1).cpu()
                errors.append((denoised - truth).square().mean((1, 2, 3)))
            psnr[sigma] = -10 * torch.cat(errors).log10().mean().item()
        return psnr

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a checkpoint holds."""
        return {
            "seed": self.seed,
            "weights": {name: value.detach() for name, value in self._weights.items()},
            "average": self._average,
            "muon": self._muon.state_dict(),
            "adam": self._adam.state_dict(),
            "tops": self._maxima,
            "steps": self.steps,
            "pixels": self.pixels,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the state of a checkpoint. The seed is not loaded."""
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


def _with_coarse_colors(noise: Tensor) -> Tensor:
    """Return noise (N, 3, H, W) with its luma (BT.601) unchanged and its colours averaged over 2 × 2 pixels."""
    weights = torch.tensor([0.299, 0.587, 0.114], device=noise.device).view(1, 3, 1, 1)
    luma = (noise * weights).sum(1, keepdim=True)
    colors = avg_pool2d(noise - luma, 2)
    return luma + interpolate(colors, scale_factor=2, mode="nearest")
