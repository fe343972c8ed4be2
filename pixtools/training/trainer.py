"""Training of DnCNN: one class that holds all that changes, so that a checkpoint is its `state_dict`.

What the paper does not do, and why: Muon (K. Jordan, 2024, as it comes with PyTorch) on the inner kernels and a start
as the identity reach within an hour on a CPU what Adam from a random start takes days for; the loss is the mean of
log(MSE) over patches, so that a decibel weighs the same whatever the noise; the mean of the weights
over the last steps (EMA) is what is kept. The last part of a run trains for int8: see `pixtools.training.quantization`.
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

MAX_SIGMA = 55.0  # of 255, as in the paper
SIGMAS = (15, 25, 50)  # for validation
SIGMA_POWER = 0.55  # for the sigmas of patches: with 0.5 sigma 15 is left behind, with 0.6 sigma 50
GREY, COARSE = 0.12, 0.13  # of the patches are grey, or have noise with coarse colours
# Errors of less than 2 levels count for less: nobody sees them, and their gradients would drown all others.
FLOOR = (2 / 255) ** 2


@dataclass(frozen=True)
class Schedule:
    """The learning rate over a run: up in a line, level, and down to 0 in a line. Parts of the whole run."""

    rate: float = 0.01  # Muon's; Adam's is 0.3 of it
    rise: float = 0.02
    level: float = 0.2

    def at(self, progress: float) -> float:
        up = progress / self.rise
        down = (1 - progress) / (1 - self.level)
        return self.rate * max(0.0, min(1.0, up, down))


class Trainer:
    """A DnCNN in training on `device`: master weights in float32, the work in bfloat16."""

    def __init__(self, device: str, seed: int, ema: float = 0.998) -> None:
        self.device, self.seed, self._decay = torch.device(device), seed, ema
        self._network = DnCNN()
        start_as_identity(self._network, torch.Generator().manual_seed(seed))
        self._network.to(self.device)
        named = dict(self._network.named_parameters())
        self._shapes = {name: weight.shape for name, weight in named.items()}
        inner = [name for name, shape in self._shapes.items() if shape[:2] == (WIDTH, WIDTH)]
        # Muon takes matrices: (64, 3 · 3 · 64), which seen as (64, 64, 3, 3) lies channels last in memory.
        matrices = {name: named[name].detach().permute(0, 2, 3, 1).flatten(1) for name in inner}
        rest = {name: weight.detach() for name, weight in named.items() if name not in inner}
        self._weights = {name: value.clone().requires_grad_() for name, value in (matrices | rest).items()}
        self._average = {name: value.detach().clone() for name, value in self._weights.items()}
        self._muon = torch.optim.Muon([self._weights[name] for name in inner], momentum=0.9, weight_decay=0.0)
        self._adam = torch.optim.Adam([self._weights[name] for name in rest])
        self._tops: quantization.Tops = {}  # once it trains for int8
        self.steps = 0
        self.pixels = 0

    def step(self, clean: Tensor, rate: float) -> float:
        """Learn from a batch of clean patches, uint8 (N, 3, H, W); return the loss, a mean of 10 log10(MSE), dB."""
        clean, noise = self._noised(clean, self.steps)
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
            # The first steps are forgotten sooner.
            decay = min(self._decay, self.steps / (self.steps + 10))
            for name, value in self._weights.items():
                self._average[name].lerp_(value, 1 - decay)
        return loss.item()

    @property
    def int8(self) -> list[int]:
        """The layers that it trains for int8."""
        return list(self._tops)

    def quantize(self, batches: Iterable[Tensor]) -> None:
        """Train for int8 from now on; clean batches, uint8 (N, 3, H, W), tell how large activations get.

        Raises ValueError if it does so already.
        """
        if self._tops:
            raise ValueError("what is trained for int8 cannot begin anew")
        noisy = (torch.add(*self._noised(clean, number)) for number, clean in enumerate(batches))
        self._network.load_state_dict(self.averaged())
        self._tops = quantization.tops(self._network, noisy)

    def _noised(self, clean: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """Return clean patches in 0..1 and white Gaussian noise for them, not clipped, each of a sigma of its own.

        Both follow from the seed and `number`. There is more strong than weak noise: it takes longest to learn, for it
        needs the widest surroundings. Some patches are grey, with noise that is the same in all channels; in as many
        others the noise has its colours at half the size, as most JPEGs do. Else the network would take the noise of
        both for texture.
        """
        clean = clean.to(self.device, non_blocking=True).float().div_(255)
        generator = torch.Generator(self.device).manual_seed(self.seed * 1_000_003 + number)
        noise = torch.empty_like(clean).normal_(generator=generator)
        chance = torch.empty(2, len(clean), 1, 1, 1, device=self.device).uniform_(generator=generator)
        sigma, kind = chance[0].pow(SIGMA_POWER) * (MAX_SIGMA / 255), chance[1]
        grey, coarse = kind < GREY, (kind >= GREY) & (kind < GREY + COARSE)
        noise = torch.where(grey, noise[:, :1], torch.where(coarse, _with_coarse_colors(noise), noise)) * sigma
        return torch.where(grey, clean.mean(1, keepdim=True), clean), noise

    def _predict(self, weights: dict[str, Tensor], noisy: Tensor) -> Tensor:
        shaped = {name: self._shape(name, value) for name, value in weights.items()}
        noisy = noisy.bfloat16().contiguous(memory_format=torch.channels_last)
        if self._tops:
            return quantization.predict(quantization.scaled(shaped, self._tops), self._tops, noisy).float()
        shaped = {name: value.bfloat16() for name, value in shaped.items()}
        noise: Tensor = functional_call(self._network, shaped, (noisy,))
        return noise.float()

    def _shape(self, name: str, value: Tensor) -> Tensor:
        shape = self._shapes[name]
        return value if value.shape == shape else value.view(shape[0], *shape[2:], shape[1]).permute(0, 3, 1, 2)

    @torch.no_grad()
    def validate(self, clean: Tensor) -> dict[int, float]:
        """Measure the averaged weights on pictures, uint8 (N, 3, H, W): the mean PSNR in dB for each sigma."""
        found = {}
        for sigma in SIGMAS:
            generator = torch.Generator().manual_seed(sigma)
            errors = []
            for picture in clean.split(4):  # type: ignore[no-untyped-call]
                truth = picture.float().div(255)
                noisy = (truth + torch.randn(truth.shape, generator=generator) * (sigma / 255)).to(self.device)
                denoised = (noisy - self._predict(self._average, noisy)).clamp(0, 1).cpu()
                errors.append((denoised - truth).square().mean((1, 2, 3)))
            found[sigma] = -10 * torch.cat(errors).log10().mean().item()
        return found

    def state_dict(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "weights": {name: value.detach() for name, value in self._weights.items()},
            "average": self._average,
            "muon": self._muon.state_dict(),
            "adam": self._adam.state_dict(),
            "tops": self._tops,
            "steps": self.steps,
            "pixels": self.pixels,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            for kind, values in ((self._weights, state["weights"]), (self._average, state["average"])):
                for name, value in values.items():
                    kind[name].copy_(value)
        self._muon.load_state_dict(state["muon"])
        self._adam.load_state_dict(state["adam"])
        self._tops, self.steps, self.pixels = state["tops"], state["steps"], state["pixels"]

    def averaged(self) -> dict[str, Tensor]:
        """The weights to keep, float32, by the names and shapes of `DnCNN`."""
        weights = {name: self._shape(name, value) for name, value in self._average.items()}
        if self._tops:
            weights = quantization.scaled(weights, self._tops)
        return {name: value.contiguous().cpu() for name, value in weights.items()}


def _with_coarse_colors(noise: Tensor) -> Tensor:
    """Return noise (N, 3, H, W) whose differences from its luma (BT.601) are means of 2 × 2 pixels."""
    weights = torch.tensor([0.299, 0.587, 0.114], device=noise.device).view(1, 3, 1, 1)
    luma = (noise * weights).sum(1, keepdim=True)
    colors = avg_pool2d(noise - luma, 2)
    return luma + interpolate(colors, scale_factor=2, mode="nearest")
