from __future__ import annotations

from pydantic import Field

from pixtools.imaging.filters import sharpen
from pixtools.imaging.memory_bounds import Memory
from pixtools.imaging.picture import Picture
from pixtools.operations.base.kinds import Transform, TransformParams


class Sharpen(TransformParams):
    radius: float = Field(1.0, gt=0, le=50, title="Radius", description="pixels: how wide an edge is taken to be")
    amount: float = Field(0.8, gt=0, le=5, title="Amount", description="how much of the difference at an edge is added")
    threshold: int = Field(
        2, ge=0, le=255, title="Threshold", description="smaller differences are left alone: they may be noise"
    )


def run(picture: Picture, params: Sharpen) -> Picture:
    return sharpen(picture, params.radius, params.amount, params.threshold)


SHARPEN = Transform(
    name="sharpen",
    title="Sharpen",
    summary="Strengthens edges by an unsharp mask.",
    version=1,
    params=Sharpen,
    run=run,
    cost=lambda _: 20,
    memory=lambda _: Memory(8, alpha=20),
)
