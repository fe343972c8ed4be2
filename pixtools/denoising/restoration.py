"""Denoises one picture tile by tile. The caller runs the network on the tiles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from pixtools.denoising.engine import Engine, Tiles
from pixtools.denoising.noise import CLEAN_SIGMA, estimate
from pixtools.denoising.tiles import Window, windows

Pixels = NDArray[np.uint8] | NDArray[np.uint16]
"""(N, H, W, C): frames in grey, grey with alpha, RGB, or RGBA."""

Noise = Literal["auto", "any"]
"""`auto` leaves a picture unchanged if it looks clean; `any` denoises every picture."""

MAX_TILE_SIDE = 1024
"""A tile has at most as many pixels as a square with this side. On photos of 2 to 12 megapixels, halos add 4 to 11 % of
work. A longer side is not used, because all other pictures wait while a CPU runs one tile."""

# Pictures with more bytes than this get smaller tiles, because they take much memory themselves. With these tiles, the
# denoiser stays below 600 MB while it works on one picture of 24 megapixels. The halos add some 13 % of work.
_LARGE_BYTES, _SIDE_IF_LARGE = 39_000_000, 768

_MAX_FRAMES_ESTIMATED = 3  # most frames of an animation whose noise is estimated


@dataclass(frozen=True)
class Report:
    """The noise that was found in a picture, and whether the picture was denoised."""

    sigma: float
    """The estimated standard deviation of the noise, on a scale of 0 to 255."""

    skipped: Literal["clean", "strength"] | None = None
    """Why the picture is unchanged: it is clean, or the strength is 0. None if the picture was denoised."""

    def as_result(self) -> dict[str, Any]:
        """Return the result of a `denoise` step, as the API shows it."""
        result = {"sigma": round(self.sigma, 1), "denoised": self.skipped is None}
        return result | ({"skipped": self.skipped} if self.skipped else {})


@dataclass(frozen=True, eq=False)
class Tile:
    """A piece of a frame, as input for the network: contiguous (h, w, 3), in the type of the picture."""

    pixels: Pixels
    frame: int
    window: Window


class Restoration:
    """The denoising of one picture: `tiles` yields the inputs of the network, and `put` takes the results in any order.

    `pixels` are uint8 or uint16 (N, H, W, C) and are never modified. `output` has the same shape and type. A grey
    picture goes through the network as three equal channels, and the mean of the three results is kept. Alpha stays
    unchanged. The colours of pixels with alpha 0 stay unchanged too. In their place, the network sees the mean of all
    visible colours, so hidden colours cannot leak into visible pixels.

    If `report.skipped` is set, there are no tiles and `output` is the input itself. Otherwise `output` takes as much
    memory as the input, and each tile takes 3 bytes for each of its pixels, or 6 bytes in uint16, until `put` gets its
    result.

    `strength` is 0..1. A tile has at most `side` × `side` pixels. Without `side`, the limit depends on the size of the
    picture. Raises ValueError if an argument is not valid.
    """

    def __init__(self, pixels: Pixels, strength: float = 1.0, noise: Noise = "any", side: int | None = None) -> None:
        _check(pixels, strength)
        self.strength = strength
        _, height, width, _ = pixels.shape
        largest = _SIDE_IF_LARGE if pixels.nbytes > _LARGE_BYTES else MAX_TILE_SIDE
        self._windows = windows(width, height, side or largest)
        self._input = pixels
        sigma = _sigma(pixels)
        clean = noise == "auto" and sigma < CLEAN_SIGMA
        self.report = Report(sigma, "strength" if strength == 0 else "clean" if clean else None)
        self.output: Pixels = pixels if self.report.skipped else pixels.copy()
        self._mean_colors = [] if self.report.skipped else [_mean_visible_color(frame) for frame in pixels]

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of every tile: (h, w, 3)."""
        read = self._windows[0].read
        return read.bottom - read.top, read.right - read.left, 3

    def __len__(self) -> int:
        """Return the largest possible number of tiles. Tiles without a visible pixel are left out of `tiles`."""
        return 0 if self.report.skipped else len(self._input) * len(self._windows)

    def tiles(self) -> Iterator[Tile]:
        """Yield the tiles one by one. Each tile is cut when it is requested, so few tiles take memory at a time."""
        if self.report.skipped:
            return
        for number, frame in enumerate(self._input):
            colors, alpha = _split_alpha(frame)
            for window in self._windows:
                if alpha is not None and not alpha[window.kept.slices].any():
                    continue
                pixels = np.empty(self.shape, dtype=frame.dtype)
                pixels[...] = colors[window.read.slices]  # (h, w, 1) or (h, w, 3)
                if alpha is not None:
                    pixels[alpha[window.read.slices] == 0] = self._mean_colors[number]
                yield Tile(pixels, number, window)

    def put(self, tile: Tile, result: Tiles) -> None:
        """Write the network's result for a tile into `output`. `result` is (h, w, 3), in the type of the picture."""
        window = tile.window
        kept = result[window.inner.slices]
        colors, alpha = _split_alpha(self.output[tile.frame][window.kept.slices])
        if colors.shape[2] == 1:
            kept = ((kept.sum(axis=2, keepdims=True, dtype=np.uint32) + 1) // 3).astype(colors.dtype)
        np.copyto(colors, kept, where=True if alpha is None else alpha[..., None] > 0)


def denoise(
    engine: Engine,
    pixels: Pixels,
    strength: float = 1.0,
    noise: Noise = "any",
    side: int | None = None,
    batch: int = 1,
) -> tuple[Pixels, Report]:
    """Denoise a picture in the calling thread, with `batch` tiles in each call of `engine`. See Restoration."""
    restoration = Restoration(pixels, strength, noise, side)
    tiles = restoration.tiles()
    while next_tiles := list(islice(tiles, batch)):
        stacked = cast("Tiles", np.stack([tile.pixels for tile in next_tiles]))
        results = engine.denoise(stacked, np.full(len(next_tiles), strength, dtype=np.float32))
        for tile, result in zip(next_tiles, results, strict=True):
            restoration.put(tile, result)
    return restoration.output, restoration.report


def _check(pixels: Pixels, strength: float) -> None:
    if pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"pixels have the type {pixels.dtype}: give uint8 or uint16")
    if pixels.ndim != 4 or pixels.shape[3] not in (1, 2, 3, 4) or 0 in pixels.shape:  # noqa: PLR2004
        raise ValueError(f"pixels have the shape {pixels.shape}: give frames (N, H, W, C) with 1 to 4 channels")
    if not 0 <= strength <= 1:
        raise ValueError(f"the strength is {strength}: give a number from 0 to 1")


def _split_alpha(frame: Pixels) -> tuple[Pixels, Pixels | None]:
    """Return views of a frame: its colours (H, W, 1 or 3), and its alpha (H, W) or None."""
    if frame.shape[2] in (2, 4):
        return frame[..., :-1], frame[..., -1]
    return frame, None


def _mean_visible_color(frame: Pixels) -> NDArray[np.float64] | None:
    """Return the mean colour of all pixels whose alpha is above 0; None for a frame without alpha."""
    colors, alpha = _split_alpha(frame)
    if alpha is None:
        return None
    total, count = np.zeros(colors.shape[2]), 0
    for row, opacity in zip(colors, alpha, strict=True):  # by rows: a mask of the whole frame would take more memory
        visible = row[opacity > 0]
        total += visible.sum(axis=0)
        count += len(visible)
    return total / max(count, 1)


def _sigma(pixels: Pixels) -> float:
    """Return the estimated noise: for an animation, the highest estimate of some frames, because one may be blank."""
    step = -(-len(pixels) // _MAX_FRAMES_ESTIMATED)
    return max(estimate(*_split_alpha(frame)) for frame in pixels[::step])
