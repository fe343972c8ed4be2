from __future__ import annotations

from typing import Literal

from pydantic import Field

from pixtools.imaging.geometry import flip
from pixtools.imaging.memory_bounds import Memory
from pixtools.imaging.picture import Picture
from pixtools.operations.base.kinds import Transform, TransformParams


class Flip(TransformParams):
    direction: Literal["horizontal", "vertical"] = Field(
        "horizontal", title="Direction", description="horizontal swaps left and right"
    )


def run(picture: Picture, params: Flip) -> Picture:
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
