"""What runs the network: one class for each library, all with this face."""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from pixtools.denoising.dncnn import Weights
from pixtools.errors import DeviceMissing

Tiles = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.float32]
"""(N, H, W, 3), RGB: 0..255, 0..65535, or 0..1 with whatever noise lies beyond."""

WHITE = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65_535, np.dtype(np.float32): 1}

Device = Literal["auto", "cpu", "cuda"]


class Engine(Protocol):
    """A loaded network on one device. It is for one thread at a time."""

    name: str  # of library, device and precision, as logs and benchmarks show it
    batch_pixels: int  # of tiles worth giving it in one call

    def denoise(self, tiles: Tiles, strengths: NDArray[np.float32]) -> Tiles:
        """Return the tiles less `strengths` (N,) times their noise, of the same shape and type.

        Numbers of 8 and 16 bits are clipped and rounded, float32 is neither. Zeros lie beyond the
        edges, as in training.
        """
        ...


def load_engine(weights: Weights, device: Device = "auto", threads: int = 1) -> Engine:
    """Load the network: on a GPU with PyTorch, or with OpenVINO on so many threads of the CPU.

    `auto` takes a GPU where PyTorch is installed and sees one. Raises DeviceMissing, with the remedy, where `cuda` is
    asked for and cannot be had.
    """
    if device != "cpu":
        missing = _missing_for_cuda()
        if missing is None:
            from pixtools.denoising.torch_engine import TorchEngine  # noqa: PLC0415 (an optional extra)

            return TorchEngine(weights, "cuda")
        if device == "cuda":
            raise DeviceMissing(missing)
    from pixtools.denoising.openvino_engine import OpenVINOEngine  # noqa: PLC0415 (a GPU needs none of it)

    return OpenVINOEngine(weights, threads)


def _missing_for_cuda() -> str | None:
    try:
        import torch  # noqa: PLC0415 (an optional extra)
    except ModuleNotFoundError:
        return "A GPU needs PyTorch: pip install 'pixtools[gpu]', or set the denoiser's device to cpu"
    if not torch.cuda.is_available():
        return (
            f"PyTorch {torch.__version__} sees no GPU: give this process one, with a driver and a build of PyTorch "
            "that fit it, or set the denoiser's device to cpu"
        )
    return None
