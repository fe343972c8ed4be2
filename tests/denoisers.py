"""Denoising engines for tests: the network in float32 with random weights, and an engine without a network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from pixtools.denoising.dncnn import Weights, array_shapes
from pixtools.denoising.engine import BLOCK, LUMA, SCALES, Denoised
from pixtools.denoising.torch_network import DnCNN

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pixtools.denoising.engine import Tiles


class Plain:
    """The DnCNN network of the paper. It runs in plain PyTorch.

    The weights do not denoise. But with these weights, each pixel of the result depends on all pixels in the receptive
    field of this pixel. The engine reports its noise as equally strong at all scales. With `coarse`, the noise is twice
    as strong at the largest scale, so pictures need two passes.
    """

    name = "plain"

    def __init__(self, *, coarse: bool = False) -> None:
        self._scales = np.array([1, 1, 4 if coarse else 1], np.float32)  # factors of the mean squares
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
    def denoise(self, tiles: Tiles, blends: NDArray[np.float32]) -> Denoised:
        self.seen.append(tiles.shape)
        top = 1.0 if tiles.dtype == np.float32 else float(np.iinfo(tiles.dtype).max)
        x = torch.from_numpy(tiles.astype(np.float32) / top).permute(0, 3, 1, 2)  # (N, 3, H, W), 0..1
        noise = self.network(x).permute(0, 2, 3, 1).numpy()  # (N, H, W, 3)
        luma = noise @ np.float32(LUMA)[:, None]
        chroma = noise - luma
        assert (blends[:, 2] == 0).all(), "this engine cannot keep grain"
        parts = blends[:, None, None]
        denoised = result = tiles / np.float32(top) - parts[..., :1] * luma - parts[..., 1:2] * chroma
        if top != 1.0:
            denoised = (denoised.clip(0, 1) * top).round()
        of_pixels = strengths(noise)[..., :: len(SCALES), None]  # luma and chroma at scale 1
        numbers = (of_pixels * self._scales).reshape(*of_pixels.shape[:-2], -1)
        return Denoised(denoised.astype(tiles.dtype), numbers, strengths(result, centred=True))

    def free(self) -> None:
        """Nothing is kept between calls."""


class Halving:
    """An engine without a network, for large pictures. It halves the brightness of a picture.

    As the noise, it reports the differences from the mean of each block, multiplied by `factor`.
    """

    name = "halving"
    batch_pixels = 1024**2

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor
        self.calls_of_free = 0
        self.seen: list[tuple[int, ...]] = []  # for each call, the shape of its tiles

    def free(self) -> None:
        self.calls_of_free += 1

    def denoise(self, tiles: Tiles, blends: NDArray[np.float32]) -> Denoised:  # noqa: ARG002
        self.seen.append(tiles.shape)
        numbers = strengths(tiles / np.float32(np.iinfo(tiles.dtype).max), centred=True)
        return Denoised(tiles // 2, self.factor**2 * numbers, numbers / 4)


def random_weights() -> Weights:
    """Weights that keep values equally large in all layers, so that every layer has an effect on the result."""
    random = np.random.default_rng(4)
    arrays = {
        name: random.normal(0, (2 / np.prod(shape[1:])) ** 0.5 if len(shape) == 4 else 0.01, shape).astype(np.float32)
        for name, shape in array_shapes().items()
    }
    return Weights(arrays)


def strengths(picture: NDArray[np.float32], *, centred: bool = False) -> NDArray[np.float32]:
    """Return the strength of noise or of a picture (N, H, W, 3) at each scale, for each block: see Denoised."""
    luma = picture @ np.float32(LUMA)[:, None]
    found = []
    for part in (luma, picture - luma):
        for scale in SCALES:
            reduced = pooled(part, scale)
            power = pooled(np.square(reduced), BLOCK // scale)
            if centred:
                power -= np.square(pooled(reduced, BLOCK // scale))
            found.append(power.mean(axis=-1) * scale**2)
    return np.stack(found, axis=-1)


def pooled(picture: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Return the averages of squares of `side` × `side` pixels."""
    count, height, width, channels = picture.shape
    height, width = height // side, width // side
    cut = picture[:, : height * side, : width * side]
    return cut.reshape(count, height, side, width, side, channels).mean(axis=(2, 4))
