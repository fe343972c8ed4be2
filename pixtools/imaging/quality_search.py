"""Searches for the quality that reaches a goal. The results of all earlier tries decide the next try."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

LOWEST, HIGHEST = 1, 100
"""The lowest and the highest quality, for every codec."""

POINTS = (1, 5, 15, 30, 50, 65, 75, 85, 92, 97, 100)
"""Qualities at which the curves of the codecs were measured."""


@dataclass(frozen=True)
class Curve:
    """The value that a codec gives for a typical photo at each quality in POINTS. The values rise.

    A value is a score, or the logarithm of the file size.

    The search uses only the shape of the curve. It shifts and stretches the curve, so that the curve passes through the
    measured values that are nearest to the target.
    """

    values: tuple[float, ...]

    def at(self, quality: float) -> float:
        """Return the value at a quality."""
        return _interpolate(POINTS, self.values, quality)

    def quality(self, value: float) -> float:
        """Return the quality that gives a value. The result may lie outside LOWEST to HIGHEST."""
        return _interpolate(self.values, POINTS, value)


def _interpolate(xs: Sequence[float], ys: Sequence[float], x: float) -> float:
    """Return y at x on straight lines through the points. The first and the last line continue beyond the points."""
    right = min(max(bisect_left(xs, x), 1), len(xs) - 1)
    left = right - 1
    return ys[left] + (ys[right] - ys[left]) * (x - xs[left]) / (xs[right] - xs[left])


def search(
    measure: Callable[[float], float],
    curve: Curve,
    accept: tuple[float, float],
    tried: dict[float, float],
    tries: int,
    highest: float = HIGHEST,
) -> None:
    """Measure up to `tries` qualities. Stop if a value lies within `accept`, or if no useful quality is left.

    The measured values are added to `tried`, with the quality as the key. `tried` may contain earlier values, also at
    fractional qualities. Only whole qualities up to `highest` are tried. The results of `measure` must rise with the
    quality, apart from a little noise.
    """
    for count in range(tries):
        if any(accept[0] <= value <= accept[1] for value in tried.values()):
            return
        quality = _next_quality(tried, curve, sum(accept) / 2, highest, count)
        if quality is None:
            return
        tried[quality] = measure(quality)


def _next_quality(tried: dict[float, float], curve: Curve, target: float, highest: float, count: int) -> int | None:
    """Return the quality that most likely gives `target`. Return None if no quality is left between the nearest tries.

    `count` is the number of tries in this search so far. After several tries, the guess relies less on the curve.
    """
    below = max((quality for quality, value in tried.items() if value < target), default=None)
    above = min((quality for quality, value in tried.items() if value >= target), default=None)
    low = LOWEST if below is None else math.floor(below) + 1
    high = math.floor(highest) if above is None else math.ceil(above) - 1
    if low > high:
        return None
    if below is not None and above is not None:
        share = (target - tried[below]) / (tried[above] - tried[below])
        guess = curve.quality(curve.at(below) + share * (curve.at(above) - curve.at(below)))
        if count > 2:  # noqa: PLR2004
            # Interpolation alone can approach the target very slowly. Move the guess towards the middle of the range.
            guess = (2 * guess + (low + high) / 2) / 3
    elif (known := above if below is None else below) is not None:
        # All tried values are too low, or all are too high. On the third try, go twice as far as the curve proposes, on
        # the fourth try four times as far, and so on.
        guess = curve.quality(curve.at(known) + (target - tried[known]) * 2 ** max(0, count - 1))
    else:
        guess = curve.quality(target)
    return min(max(round(guess), low), high)
