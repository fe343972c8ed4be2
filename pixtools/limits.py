"""The largest image that is accepted or made.

Every process imports this module through settings.py, so this module imports no imaging library.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """The largest image that is accepted or made: pixels over all frames, pixels of a side, and frames."""

    pixels: int
    side: int
    frames: int
