"""An engine that runs on a GPU, with PyTorch. In float32 it is the reference for the tests."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pixtools.denoising.dncnn import Weights
from pixtools.denoising.engine import WHITE, Tiles
from pixtools.denoising.torch_network import DnCNN


class TorchEngine:
    """DnCNN on `device`: `cpu`, `cuda`, or `cuda` with a number such as `cuda:1`."""

    batch_pixels = 16 * 512 * 512  # keeps a large GPU busy and takes 2 GB of its memory

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
    def denoise(self, tiles: Tiles, strengths: NDArray[np.float32]) -> Tiles:
        """Denoise tiles: see Engine."""
        white = WHITE[tiles.dtype]
        # Convert to float32 only on the device, because the bus then carries fewer bytes: a quarter for uint8, half for
        # uint16.
        moved = self._to_device(tiles).permute(0, 3, 1, 2)  # (N, 3, H, W), channels last in memory
        noisy = moved.float() / white
        noise = self._noise(noisy.to(self._dtype)).float()
        clean = noisy.sub_(noise.mul_(self._to_device(strengths.astype(np.float32)).view(-1, 1, 1, 1)))
        if white != 1:
            clean = clean.clamp_(0, 1).mul_(white).round_().to(moved.dtype)
        clean = clean.permute(0, 2, 3, 1).contiguous()
        if self._device.type == "cuda":
            pinned = torch.empty(clean.shape, dtype=clean.dtype, pin_memory=True)
            clean = pinned.copy_(clean, non_blocking=True)
            torch.cuda.current_stream(self._device).synchronize()
        denoised: Tiles = clean.numpy()
        return denoised

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
