"""Denoises one picture tile by tile. The caller runs the network on the tiles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from pixtools.denoising.dncnn import HALO
from pixtools.denoising.engine import BLOCK, SCALES, TEXTURE_RADIUS, WHITE, Blend, Denoised, Engine, Tiles
from pixtools.denoising.measured_noise import FOUND_QUANTILE, REMAINING_QUANTILE, MeasuredNoise
from pixtools.denoising.tiles import Box, Window, windows

Pixels = NDArray[np.uint8] | NDArray[np.uint16]
"""(N, H, W, C): frames in grey, grey with alpha, RGB, or RGBA."""

Noise = Literal["auto", "any", "white"]
"""Which pictures are denoised:

- `any`: all pictures.
- `white`: all pictures. The engine must have the weights for white noise.
- `auto`: only pictures with noise. A picture stays unchanged if it is clean, or if its noise cannot be measured.
"""

MAX_TILE_SIDE = 1024
"""A tile has at most as many pixels as a square with this side. On photos of 2 to 12 megapixels, halos add 4 to 12 % of
work. A longer side is not used, because all other pictures wait while a CPU runs one tile."""

# Pictures with more bytes than this get smaller tiles, because they take much memory themselves: with tiles of 640
# pixels, a picture of 24 megapixels stays below 600 MB.
_LARGE_BYTES, _SIDE_IF_LARGE = 39_000_000, 640

_GREY_CHANNELS = (1, 2)  # grey, and grey with alpha

_NUMBERS = 2 * len(SCALES)  # for each block, Denoised.noise has this many numbers, and Denoised.variation too

# A block is not measured if its mean brightness is this near to black (0) or white (1), because its noise is clipped.
_BLACK_OR_WHITE = 0.015
_STEP = 4  # the brightness is measured in every fourth row and column

# A large picture is first measured in probes: small tiles that lie on a grid. The border of a probe is not measured,
# because the network sees too little of the surroundings there.
_PROBED_PIXELS = 1_000_000  # a smaller picture is denoised at once, and then measured
_PROBES_PER_AXIS, _PROBE_SIDE, _PROBE_BORDER = 4, 96, BLOCK
_PROBED_SIDE = (_PROBES_PER_AXIS + 1) * _PROBE_SIDE  # in a narrower picture, probes would overlap
_MAX_FRAMES_PROBED = 3
_MIN_PROBED_BLOCKS = 64  # of the 256 in the probes of a frame; fewer do not decide


Skipped = Literal["clean", "strength", "unmeasured"]
"""Why a picture is unchanged: it is clean, the strength is 0, or `auto` could not measure the noise."""


@dataclass(frozen=True)
class Report:
    """The noise of a picture, and whether the picture was denoised. Noise that could not be measured is None."""

    found: MeasuredNoise | None = None
    """The noise that the network found."""

    remaining: MeasuredNoise | None = None
    """How much the smoothest parts of the denoised picture vary. In most photos, this is the noise that is left."""

    skipped: Skipped | None = None
    """None if the picture was denoised."""

    def as_result(self) -> dict[str, Any]:
        """Return the result of a `denoise` step, as the API shows it."""
        found, remaining = (noise.as_result() if noise else None for noise in (self.found, self.remaining))
        sigma = round(self.found.sigma, 1) if self.found else None
        result = {"sigma": sigma, "denoised": self.skipped is None}
        if self.skipped:
            return result | {"skipped": self.skipped, "noise": found}
        return result | {"noise": found, "remaining": remaining}


@dataclass(frozen=True, eq=False)
class Tile:
    """A piece of a frame, as input for the network: contiguous (h, w, 3), in the type of the picture."""

    pixels: Pixels
    frame: int
    window: Window
    is_probe: bool = False
    """A probe is only measured. Its result is not part of the output."""


class Restoration:
    """The denoising of one picture, in four parts. The caller runs the network.

    1. `probes` yields a few tiles of a large picture. `put` takes their results.
    2. `decide` decides from the probes whether the picture stays as it is.
    3. `tiles` yields all tiles. `put` takes their results, in any order.
    4. `finish` sets `output` and `report` to their final values.

    `decide` copies the picture, and `finish` sorts many numbers, so both may run in another thread.

    `pixels` are uint8 or uint16 (N, H, W, C) and are never modified. `output` has the same shape and type. A grey
    picture goes through the network as three equal channels, and the mean of the three results is kept. Alpha stays
    unchanged. The colours of pixels with alpha 0 stay unchanged too. In their place, the network sees the mean of all
    visible colours, so hidden colours cannot leak into visible pixels. A grey picture has no chroma, so
    `blend.chroma` has no effect.

    `output` is the input itself in two cases: `blend` removes nothing, or `noise` is `auto` and the picture is clean or
    cannot be measured. Otherwise `output` takes as much memory as the input. A tile takes 3 bytes for each of its
    pixels, or 6 bytes in uint16, until `put` gets its result.

    Blocks with hidden pixels, and blocks that are white or black, are not measured. A picture with a side of less than
    BLOCK pixels has no blocks. If no block is measured, the report has None in place of the noise.

    A tile has at most `side` × `side` pixels. Without `side`, the limit depends on the size of the picture. Raises
    ValueError if `pixels` are not valid.
    """

    def __init__(
        self, pixels: Pixels, blend: Blend | None = None, noise: Noise = "any", side: int | None = None
    ) -> None:
        _check(pixels)
        self.blend = blend or Blend()
        if pixels.shape[3] in _GREY_CHANNELS:
            # The network finds some chroma even in three equal channels. It is removed together with the luma.
            self.blend = replace(self.blend, chroma=self.blend.luma)
        self._input, self._noise = pixels, noise
        height, width = (max(length, BLOCK) for length in pixels.shape[1:3])
        largest = _SIDE_IF_LARGE if pixels.nbytes > _LARGE_BYTES else MAX_TILE_SIDE
        self._windows = windows(width, height, side or largest, HALO + TEXTURE_RADIUS)
        self.report = Report()
        self.output = pixels
        self._mean_colors = [_mean_visible_color(frame) for frame in pixels]
        self._is_decided = False
        # For each frame: the noise and the variation of each block, (n, 2 * _NUMBERS).
        self._blocks: list[list[NDArray[np.float32]]] = [[] for _ in pixels]

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of every tile: (h, w, 3)."""
        read = self._windows[0].read
        return read.bottom - read.top, read.right - read.left, 3

    def __len__(self) -> int:
        """Return the largest possible number of tiles. Tiles without a visible pixel are left out of `tiles`."""
        return len(self._input) * len(self._windows)

    def probes(self) -> Iterator[Tile]:
        """Yield the probes of a picture that may stay as it is. Yield nothing for a small picture."""
        frames, height, width, _ = self._input.shape
        may_stay = self._noise == "auto" or self.blend.removes_nothing
        if not may_stay or frames * height * width < _PROBED_PIXELS or min(height, width) < _PROBED_SIDE:
            return
        for number in _probed_frames(self._input):
            for window in _probe_windows(height, width):
                tile = self._tile(number, window, is_probe=True)
                if tile is not None:
                    yield tile

    def decide(self) -> None:
        """Decide whether the picture stays as it is, if the probes have shown enough of each probed frame."""
        probed = (self._blocks[number] for number in _probed_frames(self._input))
        if all(sum(map(len, blocks)) >= _MIN_PROBED_BLOCKS for blocks in probed):
            self._set_report()
            self._is_decided = True
        for of_frame in self._blocks:
            of_frame.clear()
        if not self.report.skipped and not self.blend.removes_nothing:
            self.output = self._input.copy()

    def tiles(self) -> Iterator[Tile]:
        """Yield the tiles one by one. Each tile is cut when it is requested, so few tiles take memory at a time.

        If `decide` has decided that the picture stays as it is, there are no tiles.
        """
        if self.report.skipped:
            return
        for number in range(len(self._input)):
            for window in self._windows:
                tile = self._tile(number, window)
                if tile is not None:
                    yield tile

    def put(self, tile: Tile, result: Denoised) -> None:
        """Take the network's result for a tile: one item of `Denoised.each`."""
        window = tile.window
        self._blocks[tile.frame].append(self._measured_blocks(tile, result))
        if tile.is_probe or self.blend.removes_nothing:
            return
        assert self.output is not self._input, "call `decide` first"  # noqa: S101 (the input is never modified)
        colors, alpha = _split_alpha(self.output[tile.frame][window.kept.slices])
        kept = result.tiles[window.inner.slices][: colors.shape[0], : colors.shape[1]]
        if colors.shape[2] == 1:
            kept = ((kept.sum(axis=2, keepdims=True, dtype=np.uint32) + 1) // 3).astype(colors.dtype)
        np.copyto(colors, kept, where=True if alpha is None else alpha[..., None] > 0)

    def finish(self) -> None:
        """Set `report` and `output` to their final values."""
        if not self.report.skipped:
            self._set_report()

    def _set_report(self) -> None:
        found = self._measured(slice(None, _NUMBERS), FOUND_QUANTILE)
        remaining = self._measured(slice(_NUMBERS, None), REMAINING_QUANTILE)
        skipped: Skipped | None = None
        if self.blend.removes_nothing:
            skipped = "strength"
        # If the probes have shown noise, the picture is denoised, even if most of it is clean.
        elif self._noise == "auto" and not self._is_decided:
            if found is None:
                skipped = "unmeasured"
            elif found.is_clean:
                skipped = "clean"
        self.report = Report(found, remaining, skipped)
        if skipped:
            self.output = self._input

    def _measured(self, numbers: slice, quantile: float) -> MeasuredNoise | None:
        """Measure each frame, and return the noise of the noisiest frame. Each number is a quantile of all its blocks.

        `numbers` selects columns of the blocks. Returns None if no block was measured.
        """
        of_frames = ([block[:, numbers] for block in blocks] for blocks in self._blocks if any(map(len, blocks)))
        measured = (MeasuredNoise.of(blocks, quantile) for blocks in of_frames)
        return max(measured, key=lambda each: each.sigma, default=None)

    def _measured_blocks(self, tile: Tile, result: Denoised) -> NDArray[np.float32]:
        """Return the numbers (n, 2 * _NUMBERS) of the measured blocks of a tile: those inside the kept area."""
        read, inner = tile.window.read, tile.window.inner
        height, width = self._input.shape[1:3]
        top, left = -(-inner.top // BLOCK), -(-inner.left // BLOCK)
        bottom = max(top, min(inner.bottom, height - read.top) // BLOCK)  # the picture may be smaller than a block
        right = max(left, min(inner.right, width - read.left) // BLOCK)
        blocks = slice(top, bottom), slice(left, right)
        area = slice(top * BLOCK, bottom * BLOCK), slice(left * BLOCK, right * BLOCK)
        levels = tile.pixels[area][_STEP // 2 :: _STEP, _STEP // 2 :: _STEP]  # some pixels are enough, and faster
        brightness = _in_blocks(levels, BLOCK // _STEP).mean(axis=(1, 3, 4)) / WHITE[tile.pixels.dtype]
        is_measured = (brightness > _BLACK_OR_WHITE) & (brightness < 1 - _BLACK_OR_WHITE)
        _, alpha = _split_alpha(self._input[tile.frame][read.slices])
        if alpha is not None:
            is_measured &= _in_blocks(alpha[area] > 0, BLOCK).all(axis=(1, 3))
        measured = np.concatenate([result.noise[blocks], result.variation[blocks]], axis=2)
        return cast("NDArray[np.float32]", measured[is_measured])

    def _tile(self, number: int, window: Window, *, is_probe: bool = False) -> Tile | None:
        """Cut a tile. Return None if the tile has no visible pixel."""
        frame = self._input[number]
        colors, alpha = _split_alpha(frame)
        if alpha is not None and not alpha[window.kept.slices].any():
            return None
        read = colors[window.read.slices]  # (h, w, 1) or (h, w, 3)
        height, width = window.read.bottom - window.read.top, window.read.right - window.read.left
        pixels = np.empty((height, width, 3), dtype=frame.dtype)
        here = pixels[: read.shape[0], : read.shape[1]]
        here[...] = read
        if alpha is not None:
            here[alpha[window.read.slices] == 0] = self._mean_colors[number]
        # Beyond the picture, the last row and the last column are repeated.
        pixels[read.shape[0] :, : read.shape[1]] = here[-1:]
        pixels[:, read.shape[1] :] = pixels[:, read.shape[1] - 1 : read.shape[1]]
        return Tile(pixels, number, window, is_probe)


def denoise(
    engine: Engine,
    pixels: Pixels,
    blend: Blend | None = None,
    noise: Noise = "any",
    side: int | None = None,
    batch: int = 1,
) -> tuple[Pixels, Report]:
    """Denoise a picture in the calling thread, with `batch` tiles in each call of `engine`. See Restoration."""
    restoration = Restoration(pixels, blend, noise, side)
    _run(engine, restoration, restoration.probes(), batch)
    restoration.decide()
    _run(engine, restoration, restoration.tiles(), batch)
    restoration.finish()
    return restoration.output, restoration.report


def _run(engine: Engine, restoration: Restoration, tiles: Iterator[Tile], batch: int) -> None:
    while together := list(islice(tiles, batch)):
        stacked = cast("Tiles", np.stack([tile.pixels for tile in together]))
        rows = np.array([restoration.blend.as_row()] * len(together), np.float32)
        for tile, result in zip(together, engine.denoise(stacked, rows).each(), strict=True):
            restoration.put(tile, result)


def _probed_frames(pixels: Pixels) -> range:
    """Return the numbers of the frames that get probes."""
    return range(0, len(pixels), -(-len(pixels) // _MAX_FRAMES_PROBED))


def _probe_windows(height: int, width: int) -> list[Window]:
    """Return windows on a grid, far from the edges of the picture."""
    corners = (
        [(number + 1) * length // (_PROBES_PER_AXIS + 1) - _PROBE_SIDE // 2 for number in range(_PROBES_PER_AXIS)]
        for length in (height, width)
    )
    tops, lefts = corners
    return [_probe_window(top, left) for top in tops for left in lefts]


def _probe_window(top: int, left: int) -> Window:
    end, border = _PROBE_SIDE, _PROBE_BORDER
    return Window(
        Box(left, top, left + end, top + end),
        Box(left + border, top + border, left + end - border, top + end - border),
    )


def _in_blocks(array: NDArray[np.generic], side: int) -> NDArray[Any]:
    """Divide an array (H, W, …) into squares: (H / side, side, W / side, side, …)."""
    height, width = array.shape[:2]
    return array.reshape(height // side, side, width // side, side, *array.shape[2:])


def _check(pixels: Pixels) -> None:
    if pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"pixels have the type {pixels.dtype}: give uint8 or uint16")
    if pixels.ndim != 4 or pixels.shape[3] not in (1, 2, 3, 4) or 0 in pixels.shape:  # noqa: PLR2004
        raise ValueError(f"pixels have the shape {pixels.shape}: give frames (N, H, W, C) with 1 to 4 channels")


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
