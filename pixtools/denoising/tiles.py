"""The windows into which a picture is cut, such that the network makes of them what it makes of the whole."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from pixtools.denoising.dncnn import HALO

STEP = 32
"""Sides of windows are multiples of this where the picture allows: few shapes occur over many pictures."""


@dataclass(frozen=True, slots=True)
class Box:
    """Pixels of a picture: right and bottom are the first that do not belong."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns, as an array (H, W, …) takes them."""
        return slice(self.top, self.bottom), slice(self.left, self.right)


@dataclass(frozen=True, slots=True)
class Window:
    """What the network reads at a time, and the part of it whose result is kept."""

    read: Box
    kept: Box

    @property
    def inner(self) -> Box:
        """What is kept, within what was read."""
        left, top = self.read.left, self.read.top
        return Box(self.kept.left - left, self.kept.top - top, self.kept.right - left, self.kept.bottom - top)


def windows(width: int, height: int, side: int, halo: int = HALO) -> list[Window]:
    """Return windows of one size, row by row, whose kept parts cover a picture once.

    A window lies within the picture. What it keeps is `halo` pixels or more from each of its edges that is not the
    picture's own, so that every kept pixel saw all that it depends on. Along each axis they are as few as windows of
    at most `side` pixels can be, and then as short. Raises ValueError where `side` leaves nothing between its halos.
    """
    if side <= 2 * halo:
        raise ValueError(f"a side of {side} pixels leaves nothing to keep between halos of {halo}; take more than both")
    if width < 1 or height < 1:
        raise ValueError(f"a picture of {width} × {height} has no pixels")
    columns = _spans(width, side, halo)
    return [
        Window(Box(left, top, right, bottom), Box(kept_left, kept_top, kept_right, kept_bottom))
        for top, bottom, kept_top, kept_bottom in _spans(height, side, halo)
        for left, right, kept_left, kept_right in columns
    ]


def _spans(length: int, side: int, halo: int) -> list[tuple[int, int, int, int]]:
    """Return where each window of an axis begins and ends, and where what it keeps does."""
    if length <= side:
        return [(0, length, 0, length)]
    # n windows keep w - 2 halo pixels each, and the outer two a halo more.
    number = -(-(length - 2 * halo) // (side - 2 * halo))
    shortest = -(-(length - 2 * halo) // number) + 2 * halo
    span = min(-(-shortest // STEP) * STEP, side)
    begins = [at * (length - span) // (number - 1) for at in range(number)]
    # Neighbours share two halos or more: each keeps up to the middle of what they share.
    cuts = [0, *((begin + before + span) // 2 for before, begin in pairwise(begins)), length]
    return [(begin, begin + span, cuts[at], cuts[at + 1]) for at, begin in enumerate(begins)]
