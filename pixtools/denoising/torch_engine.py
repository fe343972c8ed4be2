"""An engine that runs on a GPU, with PyTorch. In float32 it is the reference for the tests."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool2d

from pixtools.denoising.dncnn import Weights
from pixtools.denoising.engine import (
    BLEND_PARTS,
    BLOCK,
    GRAIN_RADIUS,
    LUMA,
    SCALES,
    SMALL_VARIANCE,
    TEXTURE_RADIUS,
    WHITE,
    Denoised,
    Tiles,
)
from pixtools.denoising.torch_network import DnCNN


class TorchEngine:
    """DnCNN on `device`: `cpu`, `cuda`, or `cuda` with a number such as `cuda:1`."""

    batch_pixels = 16 * 512 * 512  # an estimate: keeps a large GPU busy, and takes some 2 GB of its memory

    def __init__(
        self, weights: Weights, device: str = "cpu", precision: Literal["bfloat16", "float32"] = "bfloat16"
    ) -> None:
        self._device, self._dtype = torch.device(device), getattr(torch, precision)
        network = DnCNN()
        # Copy the arrays, because they may be read-only, and PyTorch warns about tensors on read-only memory.
        network.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in weights.arrays.items()})
        network.eval().to(self._device, self._dtype)
        self._network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        device_name = torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else device
        self.name = f"PyTorch {torch.__version__}, {device_name}, {precision}"

    @torch.inference_mode()
    def denoise(self, tiles: Tiles, blends: NDArray[np.float32]) -> Denoised:
        """Denoise tiles: see Engine."""
        white = WHITE[tiles.dtype]
        # Convert to float32 only on the device, because the bus then carries fewer bytes: a quarter for uint8, half for
        # uint16.
        moved = self._to_device(tiles).permute(0, 3, 1, 2)  # (N, 3, H, W), channels last in memory
        noisy = moved.float() / white
        luma, chroma = _split(self._noise(noisy.to(self._dtype)).float())
        parts = self._to_device(blends.astype(np.float32)).view(-1, BLEND_PARTS, 1, 1, 1)
        luma_part, chroma_part, detail = parts.unbind(1)
        kept = detail * _grain_in_texture(_luma(noisy) - luma, luma)
        clean = noisy.sub_(luma_part * (luma - kept) + chroma_part * chroma)
        strengths = [_strengths(luma, chroma), _strengths(*_split(clean), centred=True)]
        if white != 1:
            clean = clean.clamp_(0, 1).mul_(white).round_().to(moved.dtype)
        results = [each.permute(0, 2, 3, 1).contiguous() for each in (clean, *strengths)]
        if self._device.type == "cuda":
            pinned = [torch.empty(each.shape, dtype=each.dtype, pin_memory=True) for each in results]
            results = [there.copy_(here, non_blocking=True) for there, here in zip(pinned, results, strict=True)]
            torch.cuda.current_stream(self._device).synchronize()
        return Denoised(*(each.numpy() for each in results))

    def free(self) -> None:
        """Do nothing. PyTorch keeps the memory of past calls, and any engine can use this memory in its next call."""

    def _to_device(self, array: NDArray[np.generic]) -> Tensor:
        # Copy a read-only array, because PyTorch warns about tensors on read-only memory.
        array = np.require(array, requirements=["C", "W"])
        tensor = torch.from_numpy(array)
        if self._device.type == "cuda":
            tensor = tensor.pin_memory().to(self._device, non_blocking=True)
        return tensor

    def _noise(self, noisy: Tensor) -> Tensor:
        # By default, cuDNN rounds float32 to TF32, so TF32 is switched off.
        with torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=False, allow_tf32=False):
            noise: Tensor = self._network(noisy)
        return noise


def _luma(picture: Tensor) -> Tensor:
    """Return the luma (N, 1, H, W) of a picture (N, 3, H, W)."""
    return (picture * torch.tensor(LUMA, device=picture.device).view(1, 3, 1, 1)).sum(1, keepdim=True)


def _split(picture: Tensor) -> tuple[Tensor, Tensor]:
    """Split a picture (N, 3, H, W) into its luma (N, 1, H, W) and its chroma (N, 3, H, W)."""
    luma = _luma(picture)
    return luma, picture - luma


def _grain_in_texture(clean: Tensor, noise: Tensor) -> Tensor:
    """Return the grain of the luma noise, weighted by the texture of the clean luma. All are (N, 1, H, W).

    The weight is that of a Wiener filter: the share of the texture in the variance of texture and noise together.
    """
    texture = (_average(clean.square(), TEXTURE_RADIUS) - _average(clean, TEXTURE_RADIUS).square()).relu()
    weight = texture / (texture + _average(noise.square(), TEXTURE_RADIUS) + SMALL_VARIANCE)
    return weight * (noise - _average(noise, GRAIN_RADIUS))


def _average(plane: Tensor, radius: int) -> Tensor:
    """Return the averages over squares around each pixel. At the edges, only pixels inside count."""
    return avg_pool2d(plane, 2 * radius + 1, 1, radius, count_include_pad=False)


def _strengths(*pictures: Tensor, centred: bool = False) -> Tensor:
    """Return the strength of pictures (N, C, H, W) at each scale: (N, 6, h, w), with numbers for each block.

    With `centred`, the mean of each block is subtracted first.
    """
    return torch.cat([_strength(picture, scale, centred=centred) for picture in pictures for scale in SCALES], 1)


def _strength(picture: Tensor, scale: int, *, centred: bool) -> Tensor:
    side, reduced = BLOCK // scale, avg_pool2d(picture, scale)
    power = avg_pool2d(reduced.square(), side)
    if centred:
        power = power - avg_pool2d(reduced, side).square()
    return power.mean(1, keepdim=True) * scale**2
