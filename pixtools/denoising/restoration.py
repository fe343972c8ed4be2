"""Denoises one picture tile by tile. The caller runs the network on the tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from pixtools.denoising.coarse_noise import CoarseNoise, at_half
from pixtools.denoising.dncnn import HALO
from pixtools.denoising.engine import BLOCK, LUMA, SCALES, TEXTURE_RADIUS, WHITE, Blend, Denoised, Engine, Pixels, Tiles
from pixtools.denoising.measured_noise import FOUND_QUANTILE, REMAINING_QUANTILE, MeasuredNoise, in_blocks, variation
from pixtools.denoising.tiles import Box, Window, windows

Noise = Literal["auto", "any", "white"]
"""Which pictures are denoised:

- `any`: every picture is denoised.
- `white`: every picture is denoised. The engine must have the weights for white noise.
- `auto`: a picture is denoised if noise is found in it. Clean pictures stay unchanged. If the noise of a picture cannot
  be measured, the picture stays unchanged too.
"""

MAX_TILE_SIDE = 576
"""A tile has at most as many pixels as a square with this side.

On photos of 2 to 24 megapixels, halos add 14 to 18 % of work. With a side of 1024, they add only 4 to 10 %. But on a
CPU with AMX, photos of 2 to 6 megapixels took 3 to 24 % more time with a side of 1024, probably because large tiles do
not fit into the cache. Large tiles also need more memory, and other pictures wait longer while a large tile runs."""

_GREY_CHANNELS = (1, 2)  # grey, and grey with alpha

_NUMBERS = 2 * len(SCALES)  # for each block, Denoised.noise has this many numbers, and Denoised.variation too

# A block is not measured if its mean brightness is this near to black (0) or white (1), because its noise is clipped.
_BLACK_OR_WHITE = 0.015
_STEP = 4  # the brightness is measured in every fourth row and column

# In a large picture, the noise is first measured in probes. Probes are small tiles on a grid. The border of a probe is
# not measured, because the network does not see the pixels beyond the probe.
_PROBED_PIXELS = 1_000_000  # a smaller picture is denoised at once, and then measured
_PROBED_IF_ANY = 4_000_000  # with `any`, probes only help pictures with coarse noise, and these are rare
_PROBES_PER_AXIS, _PROBE_SIDE, _PROBE_BORDER = 4, 96, BLOCK
_PROBED_SIDE = (_PROBES_PER_AXIS + 1) * _PROBE_SIDE  # in a narrower picture, probes would overlap
_MAX_FRAMES_PROBED = 3
_MIN_PROBED_BLOCKS = 64  # of the 256 in the probes of a frame; fewer do not decide

_BAND_PIXELS = 500_000  # this many pixels are halved at a time, so that their copies take little memory


Skipped = Literal["clean", "strength", "unmeasured"]
"""Why a picture is unchanged: it is clean, the strength is 0, or `auto` could not measure the noise."""


@dataclass(frozen=True)
class Report:
    """The noise of a picture, and whether the picture was denoised. Noise that could not be measured is None."""

    found: MeasuredNoise | None = None
    """The noise that the network found. If probes show that the picture stays unchanged or needs two passes, this is
    the noise of the probes. Otherwise it is the noise of the whole picture."""

    remaining: MeasuredNoise | None = None
    """How much the smoothest parts of the denoised picture vary. In most photos, this is the noise that is left."""

    skipped: Skipped | None = None
    """None if the picture was denoised."""

    passes: Literal[0, 1, 2] = 1
    """Number of passes that made the output: see Restoration. 0 if the picture is unchanged."""

    def as_result(self) -> dict[str, Any]:
        """Return the result of a `denoise` step, as the API shows it."""
        found, remaining = (noise.as_result() if noise else None for noise in (self.found, self.remaining))
        sigma = round(self.found.sigma, 1) if self.found else None
        result = {"sigma": sigma, "denoised": self.skipped is None}
        if self.skipped:
            return result | {"skipped": self.skipped, "noise": found}
        return result | {"passes": self.passes, "noise": found, "remaining": remaining}


@dataclass(frozen=True, eq=False)
class Tile:
    """A piece of a frame, as input for the network: contiguous (h, w, 3), in the type of the picture."""

    pixels: Pixels
    frame: int
    window: Window


@dataclass(frozen=True, eq=False)
class Round:
    """Tiles that the network runs on, with the same blend."""

    tiles: Iterator[Tile]
    """Each tile is cut when it is requested, so few tiles take memory at a time."""

    blend: Blend

    put: Callable[[Tile, Denoised], None]
    """Call this with each tile and its result. `Denoised.each` yields the results. The tiles may come in any order."""

    is_probing: bool = False
    """Whether the tiles are only measured: they are not part of the output."""

    is_slow: bool = False
    """Whether cutting a tile or calling `put` may take a tenth of a second. Use another thread for slow rounds."""


class Restoration:
    """The denoising of one picture, in rounds. The caller runs the network: see `rounds`.

    `pixels` are uint8 or uint16 (N, H, W, C): frames in grey, grey with alpha, RGB, or RGBA. They are never modified.
    `output` has the same shape and type. A grey picture goes through the network as three equal channels, and the mean
    of the three results is kept. Alpha stays unchanged. The colours of pixels with alpha 0 stay unchanged too. In their
    place, the network sees the mean of all visible colours, so hidden colours cannot leak into visible pixels. A grey
    picture has no chroma, so the chroma of `blend` has no effect.

    A picture with coarse noise is denoised in two passes. The first pass denoises the picture at half the resolution.
    The noise that this pass removes is enlarged and subtracted from the picture. The second pass denoises the result.
    In an animation, the noisiest frame decides for all frames. With `white`, there is always one pass.

    `output` is the input itself in two cases: `blend` removes nothing, or `noise` is `auto` and the picture is clean or
    cannot be measured. Otherwise `output` takes as much memory as the input, and two passes take half as much in
    addition. A tile takes 3 bytes for each of its pixels, or 6 bytes in uint16, until `put` gets its result.

    Blocks with hidden pixels, and blocks that are white or black, are not measured. A picture with a side of less than
    BLOCK pixels has no blocks. If no block is measured, the report has None in place of the noise.

    A tile has at most `side` × `side` pixels. Raises ValueError if `pixels` are not valid.
    """

    def __init__(
        self, pixels: Pixels, blend: Blend | None = None, noise: Noise = "any", side: int = MAX_TILE_SIDE
    ) -> None:
        _check(pixels)
        self._blend = blend or Blend()
        if pixels.shape[3] in _GREY_CHANNELS:
            # The network finds some chroma even in three equal channels. It is removed together with the luma.
            self._blend = replace(self._blend, chroma=self._blend.luma)
        self._input, self._noise = pixels, noise
        height, width = (max(length, BLOCK) for length in pixels.shape[1:3])
        self._side = side
        self._windows = windows(width, height, self._side, HALO + TEXTURE_RADIUS)
        self._tiles_of_a_pass = len(pixels) * len(self._windows)
        self._all_tiles = self._tiles_of_a_pass
        self.report = Report()
        self.output = pixels
        self._mean_colors = [_mean_visible_color(frame) for frame in pixels]
        self._coarse_noise: CoarseNoise | None = None  # found by the first of two passes
        # For each frame: the noise and the variation of each block, (n, 2 * _NUMBERS).
        self._blocks: list[list[NDArray[np.float32]]] = [[] for _ in pixels]

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of every tile of the picture in its full size: (h, w, 3)."""
        read = self._windows[0].read
        return read.bottom - read.top, read.right - read.left, 3

    def __len__(self) -> int:
        """Return the number of tiles of all passes that are known so far, without probes.

        The number grows when the picture turns out to need two passes. Tiles without a visible pixel count too, but
        the passes at the full size leave them out.
        """
        return self._all_tiles

    def rounds(self) -> Iterator[Round]:
        """Yield the rounds. Put the results of all tiles of a round before you request the next round.

        1. A large picture begins with a round of probes. These are a few small tiles.
        2. One round denoises the picture in one pass. This round is left out if the probes show that the picture stays
           unchanged, or that it needs two passes.
        3. If the picture needs two passes, each of them is a round. If round 2 has run, its result is discarded.

        After the last round, `output` and `report` have their final values. A request for a round may copy the picture
        and sort many numbers, so the request may run in another thread.
        """
        is_decided = False
        if self._has_probes:
            yield Round(self._probes(), self._blend, self._measure, is_probing=True)
            is_decided = self._have_probes_shown_enough()
            if is_decided:
                self.report = self._measured_report()
            self._forget_blocks()
        if self.report.passes == 1:  # also if there are no probes, or if they do not decide
            yield from self._one_pass()
            measured = self._measured_report()
            # If the probes have shown noise, the picture is denoised, even if most of it is clean.
            self.report = replace(measured, skipped=None, passes=1) if is_decided else measured
        if self.report.passes > 1:
            yield from self._two_passes(0 if is_decided else self._tiles_of_a_pass)
            self.report = replace(self.report, remaining=self._measured_report().remaining)
            self._coarse_noise = None
        if self.report.skipped:
            self.output = self._input

    def _one_pass(self) -> Iterator[Round]:
        if not self._blend.removes_nothing:
            self.output = self._input.copy()
        yield Round(self._tiles(), self._blend, self._put)

    def _two_passes(self, tiles_before: int) -> Iterator[Round]:
        """Denoise the picture at half the resolution, subtract the noise that this pass finds, and denoise the result.

        Both passes remove all noise that they find. Then the noise is put back in part, as `blend` says.
        """
        half = Restoration(self._halved(), side=self._side)
        self._all_tiles = tiles_before + len(half) + self._tiles_of_a_pass
        self._forget_blocks()
        yield from half._one_pass()
        self._coarse_noise = CoarseNoise(half._input, half.output)
        if self.output is self._input:  # otherwise the result of one pass is overwritten
            self.output = self._input.copy()
        yield Round(self._tiles(), replace(self._blend, luma=1.0, chroma=1.0), self._put, is_slow=True)

    @property
    def _has_probes(self) -> bool:
        frames, height, width, _ = self._input.shape
        if self._noise == "white" and not self._blend.removes_nothing:
            return False
        may_stay = self._noise == "auto" or self._blend.removes_nothing
        least = _PROBED_PIXELS if may_stay else _PROBED_IF_ANY
        return bool(frames * height * width >= least and min(height, width) >= _PROBED_SIDE)

    def _probes(self) -> Iterator[Tile]:
        for number in _probed_frames(self._input):
            for window in _probe_windows(*self._input.shape[1:3]):
                tile = self._tile(number, window)
                if tile is not None:
                    yield tile

    def _have_probes_shown_enough(self) -> bool:
        blocks = (self._blocks[number] for number in _probed_frames(self._input))
        return all(sum(map(len, of_frame)) >= _MIN_PROBED_BLOCKS for of_frame in blocks)

    def _forget_blocks(self) -> None:
        for of_frame in self._blocks:
            of_frame.clear()

    def _tiles(self) -> Iterator[Tile]:
        for number in range(len(self._input)):
            for window in self._windows:
                tile = self._tile(number, window)
                if tile is not None:
                    yield tile

    def _put(self, tile: Tile, result: Denoised) -> None:
        if self._coarse_noise and (self._blend.luma, self._blend.chroma) != (1, 1):
            result = self._blended(tile, result)
        self._measure(tile, result)
        if self._blend.removes_nothing:
            return
        window = tile.window
        colors, alpha = _split_alpha(self.output[tile.frame][window.kept.slices])
        kept = result.tiles[window.inner.slices][: colors.shape[0], : colors.shape[1]]
        if colors.shape[2] == 1:
            kept = ((kept.sum(axis=2, keepdims=True, dtype=np.uint32) + 1) // 3).astype(colors.dtype)
        np.copyto(colors, kept, where=True if alpha is None else alpha[..., None] > 0)

    def _blended(self, tile: Tile, result: Denoised) -> Denoised:
        """Put a part of the removed noise back, as `blend` says. In `result`, all noise that was found is removed."""
        noisy = self._seen(tile.frame, tile.window).astype(np.float32)
        removed = noisy - result.tiles
        luma = removed @ np.array(LUMA, np.float32)[:, None]
        blended = noisy - self._blend.luma * luma - self._blend.chroma * (removed - luma)
        white = WHITE[result.tiles.dtype]
        pixels = blended.round().clip(0, white).astype(result.tiles.dtype)
        return replace(result, tiles=cast("Tiles", pixels), variation=variation((blended / white).astype(np.float32)))

    def _measure(self, tile: Tile, result: Denoised) -> None:
        self._blocks[tile.frame].append(self._measured_blocks(tile, result))

    def _measured_report(self) -> Report:
        found = self._measured(slice(None, _NUMBERS), FOUND_QUANTILE)
        remaining = self._measured(slice(_NUMBERS, None), REMAINING_QUANTILE)
        skipped: Skipped | None = None
        if self._blend.removes_nothing:
            skipped = "strength"
        elif self._noise == "auto":
            if found is None:
                skipped = "unmeasured"
            elif found.is_clean:
                skipped = "clean"
        needs_two = self._noise != "white" and found is not None and found.is_coarse
        return Report(found, remaining, skipped, passes=0 if skipped else 2 if needs_two else 1)

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
        brightness = in_blocks(levels, BLOCK // _STEP).mean(axis=(1, 3, 4)) / WHITE[tile.pixels.dtype]
        is_measured = (brightness > _BLACK_OR_WHITE) & (brightness < 1 - _BLACK_OR_WHITE)
        _, alpha = _split_alpha(self._input[tile.frame][read.slices])
        if alpha is not None:
            is_measured &= in_blocks(alpha[area] > 0, BLOCK).all(axis=(1, 3))
        measured = np.concatenate([result.noise[blocks], result.variation[blocks]], axis=2)
        return cast("NDArray[np.float32]", measured[is_measured])

    def _tile(self, number: int, window: Window) -> Tile | None:
        """Cut a tile. Return None if the tile has no visible pixel."""
        _, alpha = _split_alpha(self._input[number])
        if alpha is not None and not alpha[window.kept.slices].any():
            return None
        pixels = self._seen(number, window)
        if self._coarse_noise:
            self._coarse_noise.subtract(pixels, number, window.read)
        return Tile(pixels, number, window)

    def _seen(self, number: int, window: Window) -> Pixels:
        """Copy an area of a frame, as the network sees it: (h, w, 3)."""
        box = window.read
        pixels = np.empty((box.bottom - box.top, box.right - box.left, 3), dtype=self._input.dtype)
        read = self._visible(number, box.slices)
        pixels[: read.shape[0], : read.shape[1]] = read
        # Beyond the picture, the last row and the last column are repeated.
        pixels[read.shape[0] :, : read.shape[1]] = read[-1:]
        pixels[:, read.shape[1] :] = pixels[:, read.shape[1] - 1 : read.shape[1]]
        return pixels

    def _visible(self, number: int, area: tuple[slice, slice]) -> Pixels:
        """Return colours of a frame, (h, w, 1 or 3). Hidden pixels have the mean of all visible colours."""
        colors, alpha = _split_alpha(self._input[number])
        read, mean = colors[area], self._mean_colors[number]
        if alpha is not None and mean is not None:
            read = read.copy()
            read[alpha[area] == 0] = mean
        return read

    def _halved(self) -> Pixels:
        """Return the visible colours at half the resolution, rounded up: (N, h, w, 1 or 3)."""
        frames, height, width, _ = self._input.shape
        colors = _split_alpha(self._input[0])[0].shape[2]
        halved = np.empty((frames, -(-height // 2), -(-width // 2), colors), self._input.dtype)
        for number in range(frames):
            rows = 2 * max(1, _BAND_PIXELS // 2 // width)
            for top in range(0, height, rows):
                band = self._visible(number, (slice(top, top + rows), slice(None)))
                halved[number, top // 2 : (top + rows) // 2] = at_half(band)
        return halved


def denoise(
    engine: Engine,
    pixels: Pixels,
    blend: Blend | None = None,
    noise: Noise = "any",
    side: int = MAX_TILE_SIDE,
    batch: int = 1,
) -> tuple[Pixels, Report]:
    """Denoise a picture in the calling thread, with `batch` tiles in each call of `engine`. See Restoration."""
    restoration = Restoration(pixels, blend, noise, side)
    for of_round in restoration.rounds():
        _run(engine, of_round, batch)
    return restoration.output, restoration.report


def _run(engine: Engine, of_round: Round, batch: int) -> None:
    while together := list(islice(of_round.tiles, batch)):
        stacked = cast("Tiles", np.stack([tile.pixels for tile in together]))
        rows = np.array([of_round.blend.as_row()] * len(together), np.float32)
        for tile, result in zip(together, engine.denoise(stacked, rows).each(), strict=True):
            of_round.put(tile, result)


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
