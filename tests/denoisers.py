"""A denoiser for tests: the network itself in float32, with weights of no use but to show what depends on what."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from pixtools.denoising.torch_network import DnCNN

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pixtools.denoising.engine import Tiles


class Plain:
    """DnCNN as the paper has it, tile by tile, on one thread."""

    name = "plain"

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(5)
        self.network = DnCNN().eval()
        for parameter in self.network.parameters():
            # He's start keeps numbers of one size from layer to layer: every pixel in reach tells on the result.
            scale = (2 / parameter[0].numel()) ** 0.5 if parameter.dim() == 4 else 0.01
            parameter.data.normal_(0, scale, generator=generator)
        self.network.model[-1].weight.data *= 0.2
        self.seen: list[tuple[int, ...]] = []  # shapes of what it was given

    @torch.inference_mode()
    def denoise(self, tiles: Tiles, strengths: NDArray[np.float32]) -> Tiles:
        self.seen.append(tiles.shape)
        top = 1.0 if tiles.dtype == np.float32 else float(np.iinfo(tiles.dtype).max)
        numbers = torch.from_numpy(tiles.astype(np.float32) / top).permute(0, 3, 1, 2)  # (N, 3, H, W), 0..1
        found = numbers - torch.from_numpy(strengths)[:, None, None, None] * self.network(numbers)
        plain = found.permute(0, 2, 3, 1).numpy()
        return plain if top == 1.0 else (plain.clip(0, 1) * top).round().astype(tiles.dtype)
