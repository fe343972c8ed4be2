"""The limits of the images that PixTools accepts or makes.

Every process imports this module through settings.py, so this module imports no imaging library.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """The limits of an image: the pixels of all frames together, the pixels of one side, and the number of frames."""

    pixels: int
    side: int
    frames: int
