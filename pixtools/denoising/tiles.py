"""Cuts a picture into windows that overlap.

Because of the overlap, denoising each window gives the same pixels as denoising the whole picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from pixtools.denoising.dncnn import HALO

SIDE_STEP = 32
"""In pixels. Sides of windows are multiples of this if possible, so that windows of many pictures have equal shapes."""


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of pixels; `right` and `bottom` are exclusive."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """The rows and columns, to index an array (H, W, …)."""
        return slice(self.top, self.bottom), slice(self.left, self.right)


@dataclass(frozen=True, slots=True)
class Window:
    """An area of a picture that the network reads, and the area inside it whose result is kept."""

    read: Box
    kept: Box

    @property
    def inner(self) -> Box:
        """The kept area, relative to the area that is read."""
        left, top = self.read.left, self.read.top
        return Box(self.kept.left - left, self.kept.top - top, self.kept.right - left, self.kept.bottom - top)


def windows(width: int, height: int, side: int, halo: int = HALO) -> list[Window]:
    """Return windows of one size, row by row. Their kept areas cover the picture exactly once.

    Every window lies inside the picture. Its kept area is at least `halo` pixels away from each edge of the window,
    unless this edge is an edge of the picture. So the network sees every pixel that has an effect on a kept pixel.
    Along each axis, a window has at most `side` pixels. There are as few windows as possible. They are as short as
    possible, but rounded up to SIDE_STEP.

    Raises ValueError if `side` leaves no pixel between two halos, or if the picture has no pixels.
    """
    if side <= 2 * halo:
        raise ValueError(f"a side of {side} pixels keeps no pixel between two halos of {halo}: use a longer side")
    if width < 1 or height < 1:
        raise ValueError(f"a picture of {width} × {height} has no pixels")
    columns = _spans(width, side, halo)
    return [
        Window(Box(left, top, right, bottom), Box(kept_left, kept_top, kept_right, kept_bottom))
        for top, bottom, kept_top, kept_bottom in _spans(height, side, halo)
        for left, right, kept_left, kept_right in columns
    ]


def _spans(length: int, side: int, halo: int) -> list[tuple[int, int, int, int]]:
    """Return the begin and the end of each window along one axis, and the begin and the end of its kept area."""
    if length <= side:
        return [(0, length, 0, length)]
    # n windows of w pixels keep w - 2 halo pixels each. The first and the last window keep one halo more.
    count = -(-(length - 2 * halo) // (side - 2 * halo))
    shortest = -(-(length - 2 * halo) // count) + 2 * halo
    span = min(-(-shortest // SIDE_STEP) * SIDE_STEP, side)
    begins = [number * (length - span) // (count - 1) for number in range(count)]
    # Neighbours overlap by at least two halos. The kept areas meet in the middle of the overlap.
    cuts = [0, *((begin + before + span) // 2 for before, begin in pairwise(begins)), length]
    return [(begin, begin + span, cuts[number], cuts[number + 1]) for number, begin in enumerate(begins)]
