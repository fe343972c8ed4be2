"""Cuts a picture into windows that overlap.

Because of the overlap, denoising each window gives the same pixels as denoising the whole picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from pixtools.denoising.dncnn import HALO

SIDE_STEP = 32
"""If a picture is cut along an axis, the sides of its windows are multiples of this number if possible. So the windows
of many pictures have equal shapes."""


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
    A window has at most as many pixels as a square of `side` × `side`. Among all numbers of columns and rows, those are
    chosen for which all windows together have the fewest pixels. Sides are rounded up to SIDE_STEP if possible.

    Raises ValueError if `side` leaves no pixel between two halos, or if the picture has no pixels.
    """
    if side <= 2 * halo:
        raise ValueError(f"a side of {side} pixels keeps no pixel between two halos of {halo}: use a longer side")
    if width < 1 or height < 1:
        raise ValueError(f"a picture of {width} × {height} has no pixels")
    cuts = _cuts(width, height, side * side, halo, SIDE_STEP) or _cuts(width, height, side * side, halo, 1)
    # The fewest pixels. Among equal sums, the fewest windows.
    columns, rows = min(cuts, key=lambda cut: (cut[0].pixels * cut[1].pixels, cut[0].count * cut[1].count))
    return [
        Window(Box(left, top, right, bottom), Box(kept_left, kept_top, kept_right, kept_bottom))
        for top, bottom, kept_top, kept_bottom in rows.spans()
        for left, right, kept_left, kept_right in columns.spans()
    ]


@dataclass(frozen=True, slots=True)
class _Cut:
    """Cuts `length` pixels along one axis into `count` windows, each with `side` pixels."""

    length: int
    count: int
    side: int

    @property
    def pixels(self) -> int:
        """The pixels of all windows together. Pixels in the overlaps count twice."""
        return self.count * self.side

    def spans(self) -> list[tuple[int, int, int, int]]:
        """Return the begin and the end of each window, and the begin and the end of its kept area."""
        if self.count == 1:
            return [(0, self.length, 0, self.length)]
        # Neighbours overlap by at least two halos. The kept areas meet in the middle of the overlap.
        begins = [number * (self.length - self.side) // (self.count - 1) for number in range(self.count)]
        cuts = [0, *((begin + before + self.side) // 2 for before, begin in pairwise(begins)), self.length]
        return [(begin, begin + self.side, cuts[number], cuts[number + 1]) for number, begin in enumerate(begins)]


def _cuts(width: int, height: int, most_pixels: int, halo: int, step: int) -> list[tuple[_Cut, _Cut]]:
    """Return ways to cut a picture into columns and rows, with windows of at most `most_pixels` pixels.

    For each number of columns there is at most one way: the one with the fewest pixels.
    """
    cuts = []
    rows = _cuts_of_axis(height, halo, step)
    for column in _cuts_of_axis(width, halo, step):
        fitting = [row for row in rows if column.side * row.side <= most_pixels]
        if fitting:
            cuts.append((column, min(fitting, key=lambda row: (row.pixels, row.count))))
    return cuts


def _cuts_of_axis(length: int, halo: int, step: int) -> list[_Cut]:
    """Return the ways to cut an axis, from the fewest windows to the most. Sides are multiples of `step`."""
    cuts = [_Cut(length, 1, length)]
    for count in range(2, length - 2 * halo + 1):
        # n windows of w pixels keep w - 2 halo pixels each. The first and the last window keep one halo more.
        shortest = -(-(length - 2 * halo) // count) + 2 * halo
        side = -(-shortest // step) * step
        if side < cuts[-1].side:
            cuts.append(_Cut(length, count, side))
    return cuts
