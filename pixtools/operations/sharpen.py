"""Sharpen with an unsharp mask: subtract a blurred copy from the picture, and add the difference to the picture."""

from __future__ import annotations

from pydantic import Field

from pixtools.imaging.filters import sharpen
from pixtools.imaging.memory_bounds import Memory
from pixtools.imaging.picture import Picture
from pixtools.operations.base.kinds import Transform
from pixtools.operations.base.params import TransformParams


class Sharpen(TransformParams):
    """Parameters of the unsharp mask."""

    radius: float = Field(
        1.0, gt=0, le=50, title="Radius", description="standard deviation of the blurred copy, in pixels"
    )
    amount: float = Field(0.8, gt=0, le=5, title="Amount", description="factor for the difference to the blurred copy")
    threshold: int = Field(
        2, ge=0, le=255, title="Threshold", description="smaller differences are not added, because they may be noise"
    )


def run(picture: Picture, params: Sharpen) -> Picture:
    """Return the sharpened picture."""
    return sharpen(picture, params.radius, params.amount, params.threshold)


SHARPEN = Transform(
    name="sharpen",
    title="Sharpen",
    summary="Makes edges crisper with an unsharp mask.",
    version=1,
    params=Sharpen,
    run=run,
    cost=lambda _: 20,
    memory=lambda _: Memory(8, alpha=20),
)
