from __future__ import annotations

from pydantic import Field

from pixtools.imaging.filters import blur
from pixtools.imaging.memory_bounds import Memory
from pixtools.imaging.picture import Picture
from pixtools.operations.base.kinds import Transform, TransformParams


class Blur(TransformParams):
    radius: float = Field(2.0, gt=0, le=250, title="Radius", description="pixels: one standard deviation of the blur")


def run(picture: Picture, params: Blur) -> Picture:
    return blur(picture, params.radius)


BLUR = Transform(
    name="blur",
    title="Blur",
    summary="Softens the picture, or hides what it shows.",
    version=1,
    params=Blur,
    run=run,
    cost=lambda _: 15,
    memory=lambda _: Memory(8, alpha=20),
)
