"""Flip: mirror the picture without loss."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pixtools.imaging.geometry import flip
from pixtools.imaging.memory_bounds import Memory
from pixtools.imaging.picture import Picture
from pixtools.operations.base.kinds import Transform
from pixtools.operations.base.params import TransformParams


class Flip(TransformParams):
    """Parameters of the flip."""

    direction: Literal["horizontal", "vertical"] = Field(
        "horizontal",
        title="Direction",
        description="`horizontal` swaps left and right; `vertical` swaps top and bottom",
    )


def run(picture: Picture, params: Flip) -> Picture:
    """Return the mirrored picture."""
    return flip(picture, vertical=params.direction == "vertical")


FLIP = Transform(
    name="flip",
    title="Flip",
    summary="Mirrors the picture.",
    version=1,
    params=Flip,
    run=run,
    cost=lambda _: 1,
    memory=lambda _: Memory(4),
)
