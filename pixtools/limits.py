"""The limits of the images that PixTools accepts or makes, and of the jobs that it accepts.

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


@dataclass(frozen=True)
class JobLimits:
    """The limits of a new job, checked when the job is submitted.

    `pixels` limits the pixels of all pictures together that steps leave as files. All frames count. `kept_steps` limits
    the number of steps whose pixels are stored as a lossless PNG.
    """

    pixels: int
    kept_steps: int
