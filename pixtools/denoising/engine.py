"""The interface of an engine, which runs the network, and the choice of an engine for a device."""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from pixtools.denoising.dncnn import Weights
from pixtools.errors import DeviceMissing

Tiles = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.float32]
"""(N, H, W, 3) RGB. Black to white is 0..255, 0..65535, or 0..1; float32 values may lie outside 0..1."""

WHITE = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65_535, np.dtype(np.float32): 1}
"""The value of white for each type of tiles."""

Device = Literal["auto", "cpu", "cuda"]


class Engine(Protocol):
    """A loaded network on one device. Only one thread at a time may use it."""

    name: str
    """Library, device and precision, for logs and benchmarks."""

    batch_pixels: int
    """Number of pixels to pass in one call. More pixels in one call do not reduce the time for each pixel."""

    def denoise(self, tiles: Tiles, strengths: NDArray[np.float32]) -> Tiles:
        """Return each tile minus its noise times its strength. `strengths` is (N,).

        The result has the shape and type of `tiles`. uint8 and uint16 results are clipped and rounded. float32 results
        are neither clipped nor rounded. The network sees zeros beyond the edges of a tile, as in training.
        """
        ...


def load_engine(weights: Weights, device: Device = "auto", threads: int = 1) -> Engine:
    """Load the network: with PyTorch on a GPU, or with OpenVINO on `threads` threads of the CPU.

    `auto` takes the GPU if PyTorch is installed and finds a GPU. Raises DeviceMissing, with the remedy, if `device` is
    `cuda` and no GPU can be used.
    """
    if device != "cpu":
        obstacle = _cuda_obstacle()
        if obstacle is None:
            from pixtools.denoising.torch_engine import TorchEngine  # noqa: PLC0415 (an optional extra)

            return TorchEngine(weights, "cuda")
        if device == "cuda":
            raise DeviceMissing(obstacle)
    from pixtools.denoising.openvino_engine import OpenVINOEngine  # noqa: PLC0415 (not needed on a GPU)

    return OpenVINOEngine(weights, threads)


def _cuda_obstacle() -> str | None:
    """Return why a GPU cannot be used, and the remedy. Return None if a GPU can be used."""
    try:
        import torch  # noqa: PLC0415 (an optional extra)
    except ModuleNotFoundError:
        return "A GPU needs PyTorch: pip install 'pixtools[gpu]', or set the denoiser's device to cpu"
    if not torch.cuda.is_available():
        return (
            f"PyTorch {torch.__version__} sees no GPU: give this process a GPU, with a driver and a build of PyTorch "
            "that fit it, or set the denoiser's device to cpu"
        )
    return None
