"""The search for a quality: which to try next, from what those before gave."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

LOWEST, HIGHEST = 1, 100
"""Qualities, as every codec here counts them."""


POINTS = (1, 5, 15, 30, 50, 65, 75, 85, 92, 97, 100)
"""The qualities at which codecs were measured."""


@dataclass(frozen=True)
class Curve:
    """What a codec gives of an ordinary photo at each of POINTS, rising.

    Its slope is what matters. A picture is compared with it where it was tried, and what lies between is read from
    the curve, stretched to go through what is known.
    """

    values: tuple[float, ...]

    def at(self, quality: float) -> float:
        return _between(POINTS, self.values, quality)

    def quality(self, value: float) -> float:
        return _between(self.values, POINTS, value)


def _between(xs: Sequence[float], ys: Sequence[float], x: float) -> float:
    """Return y at x on the line through the points, which goes straight on beyond its ends."""
    at = min(max(bisect_left(xs, x), 1), len(xs) - 1)
    return ys[at - 1] + (ys[at] - ys[at - 1]) * (x - xs[at - 1]) / (xs[at] - xs[at - 1])


def search(
    measure: Callable[[float], float],
    curve: Curve,
    accept: tuple[float, float],
    tried: dict[float, float],
    tries: int,
    highest: float = HIGHEST,
) -> None:
    """Measure qualities, at most `tries`, until one lies in `accept` or none is left that might; add them to `tried`.

    Whole qualities alone are tried; those in `tried` may be fractions. `measure` is taken to rise with quality, but
    for a little noise.
    """
    for count in range(tries):
        if any(accept[0] <= value <= accept[1] for value in tried.values()):
            return
        quality = _next(tried, curve, sum(accept) / 2, highest, count)
        if quality is None:
            return
        tried[quality] = measure(quality)


def _next(tried: dict[float, float], curve: Curve, aim: float, highest: float, count: int) -> int | None:
    """Return the quality most likely to give `aim`, or None where there is none between those that miss it.

    `count` tries came before: with each that missed, less trust is put in the curve.
    """
    below = max((quality for quality, value in tried.items() if value < aim), default=None)
    above = min((quality for quality, value in tried.items() if value >= aim), default=None)
    low = LOWEST if below is None else math.floor(below) + 1
    high = math.floor(highest) if above is None else math.ceil(above) - 1
    if low > high:
        return None
    if below is not None and above is not None:
        share = (aim - tried[below]) / (tried[above] - tried[below])
        guess = curve.quality(curve.at(below) + share * (curve.at(above) - curve.at(below)))
        if count > 2:  # noqa: PLR2004
            # A line can creep up to the aim from one side; with some of the middle it cannot.
            guess = (2 * guess + (low + high) / 2) / 3
    elif (known := above if below is None else below) is not None:
        # Twice as far with each that misses on the same side.
        guess = curve.quality(curve.at(known) + (aim - tried[known]) * 2 ** max(0, count - 1))
    else:
        guess = curve.quality(aim)
    return min(max(round(guess), low), high)
