"""A picture denoised tile by tile, whoever runs the tiles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from pixtools.denoising.engine import Engine, Tiles
from pixtools.denoising.noise import CLEAN, estimate
from pixtools.denoising.tiles import Window, windows

Pixels = NDArray[np.uint8] | NDArray[np.uint16]
"""(N, H, W, C): frames of grey, grey with alpha, RGB, or RGBA."""

Noise = Literal["auto", "any"]
"""Whether a picture that looks clean is left as it is, or denoised all the same."""

SIDE = 768
"""Of tiles, in pixels at most. Halos then cost 12 % on photos, where 512 cost 21 % and 1,024 6 %; but while a CPU is at
one tile, all other pictures wait."""

_MOST_LOOKED_AT = 3  # frames of an animation whose noise is estimated


@dataclass(frozen=True)
class Report:
    """What came of a picture: the noise found in it, as a standard deviation in levels of 255, and what followed."""

    sigma: float
    skipped: Literal["clean", "strength"] | None = None  # why the picture is as it was: no noise, or a strength of 0


@dataclass(frozen=True, eq=False)
class Tile:
    """A part of a frame for the network to read: contiguous (h, w, 3), of the picture's type."""

    pixels: Pixels
    frame: int
    window: Window


class Restoration:
    """One picture on its way: `tiles` says what to run, `put` takes what came of it, in any order.

    uint8 or uint16 (N, H, W, C), which is never written to; `output` is of the same shape and type. Grey goes through
    the network as three equal channels, whose mean is taken back. Alpha stays as it is, and so do colours where it is
    0: the network sees the mean of all visible ones in their place, so that what is hidden tells on nothing.
    Where `report.skipped` says why nothing is to be done, there are no tiles and `output` is the input itself; else
    it takes as much memory as the input, and each tile at hand 3 bytes a pixel, or 6.

    Raises ValueError for pixels, a strength or a side that make no sense.
    """

    def __init__(self, pixels: Pixels, strength: float = 1.0, noise: Noise = "any", side: int = SIDE) -> None:
        _check(pixels, strength)
        self.strength = strength
        self._windows = windows(pixels.shape[2], pixels.shape[1], side)
        self._input = pixels
        sigma = _sigma(pixels)
        clean = noise == "auto" and sigma < CLEAN
        self.report = Report(sigma, "strength" if strength == 0 else "clean" if clean else None)
        self.output: Pixels = pixels if self.report.skipped else pixels.copy()
        self._hidden = [] if self.report.skipped else [_hidden_color(frame) for frame in pixels]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of every tile: (h, w, 3)."""
        read = self._windows[0].read
        return read.bottom - read.top, read.right - read.left, 3

    def __len__(self) -> int:
        """Return how many tiles there are at most: those of which nothing can be seen are left out."""
        return 0 if self.report.skipped else len(self._input) * len(self._windows)

    def tiles(self) -> Iterator[Tile]:
        """Cut one tile after the other, each as it is asked for."""
        if self.report.skipped:
            return
        for at, frame in enumerate(self._input):
            colors, alpha = _parts(frame)
            for window in self._windows:
                if alpha is not None and not alpha[window.kept.slices].any():
                    continue
                cut = np.empty(self.shape, dtype=frame.dtype)
                cut[...] = colors[window.read.slices]  # (h, w, 1) or (h, w, 3)
                if alpha is not None:
                    cut[alpha[window.read.slices] == 0] = self._hidden[at]
                yield Tile(cut, at, window)

    def put(self, tile: Tile, result: Tiles) -> None:
        """Take what the network made of a tile: (h, w, 3), of the same type."""
        window = tile.window
        found = result[window.inner.slices]
        colors, alpha = _parts(self.output[tile.frame][window.kept.slices])
        if colors.shape[2] == 1:
            found = ((found.sum(axis=2, keepdims=True, dtype=np.uint32) + 1) // 3).astype(colors.dtype)
        np.copyto(colors, found, where=True if alpha is None else alpha[..., None] > 0)


def denoise(
    engine: Engine,
    pixels: Pixels,
    strength: float = 1.0,
    noise: Noise = "any",
    side: int = SIDE,
    batch: int = 1,
) -> tuple[Pixels, Report]:
    """Denoise a picture here and now, `batch` tiles at a time, and say what was found. See Restoration."""
    restoration = Restoration(pixels, strength, noise, side)
    tiles = restoration.tiles()
    while some := list(islice(tiles, batch)):
        stacked = cast("Tiles", np.stack([tile.pixels for tile in some]))
        results = engine.denoise(stacked, np.full(len(some), strength, dtype=np.float32))
        for tile, result in zip(some, results, strict=True):
            restoration.put(tile, result)
    return restoration.output, restoration.report


def _check(pixels: Pixels, strength: float) -> None:
    if pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"pixels of {pixels.dtype} are not known here; give uint8 or uint16")
    if pixels.ndim != 4 or pixels.shape[3] not in (1, 2, 3, 4) or 0 in pixels.shape:  # noqa: PLR2004
        raise ValueError(f"pixels of shape {pixels.shape} are no frames; give (N, H, W, C) with 1 to 4 channels")
    if not 0 <= strength <= 1:
        raise ValueError(f"a strength of {strength} is out of range; give 0 to 1")


def _parts(frame: Pixels) -> tuple[Pixels, Pixels | None]:
    """Return views of the colours (H, W, 1 or 3) and of the alpha (H, W) of a frame, if it has any."""
    if frame.shape[2] in (2, 4):
        return frame[..., :-1], frame[..., -1]
    return frame, None


def _hidden_color(frame: Pixels) -> NDArray[np.float64] | None:
    """Return what stands in for hidden colours: the mean of what can be seen.

    Row by row, for a mask of the whole frame would be memory beyond the tiles'.
    """
    colors, alpha = _parts(frame)
    if alpha is None:
        return None
    total, count = np.zeros(colors.shape[2]), 0
    for row, opacity in zip(colors, alpha, strict=True):
        seen = row[opacity > 0]
        total += seen.sum(axis=0)
        count += len(seen)
    return total / max(count, 1)


def _sigma(pixels: Pixels) -> float:
    """Return the noise of a picture: of an animation, the most of some frames, as one may show nothing yet."""
    step = -(-len(pixels) // _MOST_LOOKED_AT)
    return max(estimate(*_parts(frame)) for frame in pixels[::step])
