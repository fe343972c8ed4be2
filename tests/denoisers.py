"""A denoising engine for tests: the network in float32, with random weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from pixtools.denoising.torch_network import DnCNN

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pixtools.denoising.engine import Tiles


class Plain:
    """The DnCNN network of the paper. It runs in plain PyTorch on one thread.

    The weights do not denoise. But with these weights, each pixel of the result depends on all pixels in the receptive
    field of this pixel.
    """

    name = "plain"

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(5)
        self.network = DnCNN().eval()
        for parameter in self.network.parameters():
            # The initialization by He et al. keeps values equally large in all layers. So distant pixels have an
            # effect on the result.
            scale = (2 / parameter[0].numel()) ** 0.5 if parameter.dim() == 4 else 0.01
            parameter.data.normal_(0, scale, generator=generator)
        self.network.model[-1].weight.data *= 0.2
        self.seen: list[tuple[int, ...]] = []  # for each call, the shape of its tiles

    @torch.inference_mode()
    def denoise(self, tiles: Tiles, strengths: NDArray[np.float32]) -> Tiles:
        self.seen.append(tiles.shape)
        top = 1.0 if tiles.dtype == np.float32 else float(np.iinfo(tiles.dtype).max)
        x = torch.from_numpy(tiles.astype(np.float32) / top).permute(0, 3, 1, 2)  # (N, 3, H, W), 0..1
        y = x - torch.from_numpy(strengths)[:, None, None, None] * self.network(x)
        denoised = y.permute(0, 2, 3, 1).numpy()  # (N, H, W, 3)
        return denoised if top == 1.0 else (denoised.clip(0, 1) * top).round().astype(tiles.dtype)
