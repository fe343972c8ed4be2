"""The interface of an engine, which runs the network and blends its result, and the choice of an engine for a device.

An engine splits the noise that the network finds into luma and chroma, and removes a part of each: see Blend. All
engines use the constants of this module, so their results differ only by rounding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, cast, get_args

import numpy as np
from numpy.typing import NDArray

from pixtools.denoising.dncnn import Weights
from pixtools.errors import DeviceMissing

Tiles = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.float32]
"""(N, H, W, 3) RGB. Black to white is 0..255, 0..65535, or 0..1; float32 values may lie outside 0..1."""

Pixels = NDArray[np.uint8] | NDArray[np.uint16]
"""Pixels of a picture, as it is stored. The last axis has the channels."""

BLEND_PARTS = 3
"""The number of parts in a Blend."""

DETAIL = 2
"""Blend.as_row puts the detail at this place."""

WHITE = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65_535, np.dtype(np.float32): 1}
"""The value of white for each type of tiles."""

Device = Literal["auto", "cpu", "cuda"]

Effort = Literal["normal", "fast"]
"""`fast` takes less time than `normal` on some CPUs, but removes less noise. The difference is the precision: see
`openvino_engine.best_precision`. On a GPU, both are the same."""

EFFORTS: tuple[Effort, ...] = get_args(Effort)

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the luma (BT.601, as in JPEG). The chroma is the channels minus the luma."""

BLOCK = 16
"""Side of a block, in pixels. An engine measures the noise of each block."""

SCALES = (1, 2, 4)
"""The noise is measured at these scales. At scale s, each square of s × s pixels is averaged to one pixel first."""

GRAIN_RADIUS = 1
"""Radius of a square of 3 × 3 pixels. The grain at a pixel is its luma noise, minus the average luma noise in the
square around it."""

TEXTURE_RADIUS = 2
"""Radius of a square of 5 × 5 pixels. The texture at a pixel is the variance of the clean luma in the square around
it."""

SMALL_VARIANCE = 1e-9
"""This number is added to each variance that is a divisor, so that the divisor is never 0. The number changes no result
visibly. Even the variance of the rounding to 8 bits is a thousand times larger."""


@dataclass(frozen=True)
class Blend:
    """The parts of the noise to remove, each 0..1. Raises ValueError for other numbers."""

    luma: float = 1.0
    """The part of the luma noise that is removed."""

    chroma: float = 1.0
    """The part of the chroma noise that is removed."""

    detail: float = 0.0
    """The part of the grain that stays where there is texture. Grain is hard to see in texture. Where the network
    removes grain, it also removes some texture."""

    def __post_init__(self) -> None:
        for name, part in vars(self).items():
            if not 0 <= part <= 1:
                raise ValueError(f"{name} is {part}: give a number from 0 to 1")

    def as_row(self) -> tuple[float, float, float]:
        """Return the three numbers: a row of the argument `blends` of `Engine.denoise`."""
        return self.luma, self.chroma, self.detail

    @property
    def removes_nothing(self) -> bool:
        """Whether the picture stays as it is."""
        return self.luma == self.chroma == 0


@dataclass(frozen=True, eq=False)
class Denoised:
    """The result of an engine for a batch of tiles."""

    tiles: Tiles

    noise: NDArray[np.float32]
    """(N, H // BLOCK, W // BLOCK, 6): for each block, the mean square of the noise that the network found, as a
    fraction of white². The six numbers are the luma at each of SCALES, and then the chroma. At scale s, the noise is
    averaged over squares of s × s pixels first, and the mean square is multiplied by s². So white noise has the same
    strength at all scales, and coarse noise is stronger at the scales 2 and 4."""

    variation: NDArray[np.float32]
    """(N, H // BLOCK, W // BLOCK, 6): the same numbers for the result, before it is clipped and rounded, minus its mean
    in the block. In the smoothest blocks of a picture, most of this variation is the noise that is left."""

    def each(self) -> Iterator[Denoised]:
        """Yield the result of each tile. Its arrays have one axis less."""
        return map(Denoised, cast("Iterable[Tiles]", self.tiles), self.noise, self.variation)


class Engine(Protocol):
    """A loaded network on one device. Only one thread at a time may use it."""

    name: str
    """Library, device and precision, for logs and benchmarks."""

    batch_pixels: int
    """Number of pixels to pass in one call. More pixels in one call do not reduce the time for each pixel."""

    def denoise(self, tiles: Tiles, blends: NDArray[np.float32]) -> Denoised:
        """Denoise tiles. `blends` (N, 3) has the row of a Blend for each tile.

        The sides of a tile are at least BLOCK. The result has the shape and type of `tiles`. uint8 and uint16 results
        are clipped and rounded. float32 results are neither clipped nor rounded. The network sees zeros beyond the
        edges of a tile, as in training.
        """
        ...

    def free(self) -> None:
        """Free the memory that the last call has used. The next call then allocates new memory, which takes time."""
        ...


class LastEngine:
    """Remembers which of several engines ran last. Only this engine keeps memory for its next call."""

    def __init__(self) -> None:
        self._engine: Engine | None = None

    def change_to(self, engine: Engine) -> None:
        """Free the memory of the engine that ran last, unless this is `engine`. Call this before `engine` runs."""
        if self._engine is not None and self._engine is not engine:
            self._engine.free()
        self._engine = engine


def load_engine(weights: Weights, device: Device = "auto", threads: int = 1, effort: Effort = "normal") -> Engine:
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

    return OpenVINOEngine(weights, threads, effort=effort)


def load_engines(weights: Weights, device: Device = "auto", threads: int = 1) -> dict[Effort, Engine]:
    """Call load_engine for each effort. If two engines have the same precision, return one of them for both efforts."""
    by_name: dict[str, Engine] = {}
    engines = ((effort, load_engine(weights, device, threads, effort)) for effort in EFFORTS)
    return {effort: by_name.setdefault(engine.name, engine) for effort, engine in engines}


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
