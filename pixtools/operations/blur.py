"""Gaussian blur, approximated by Pillow's repeated box blurs."""

from __future__ import annotations

from pydantic import Field

from pixtools.imaging.filters import blur
from pixtools.imaging.memory_bounds import Memory
from pixtools.imaging.picture import Picture
from pixtools.operations.base.kinds import Transform
from pixtools.operations.base.params import TransformParams


class Blur(TransformParams):
    """Parameters of the blur."""

    radius: float = Field(2.0, gt=0, le=250, title="Radius", description="standard deviation of the blur, in pixels")


def run(picture: Picture, params: Blur) -> Picture:
    """Return the blurred picture."""
    return blur(picture, params.radius)


BLUR = Transform(
    name="blur",
    title="Blur",
    summary="Softens the picture, or hides details.",
    version=1,
    params=Blur,
    run=run,
    cost=lambda _: 15,
    memory=lambda _: Memory(8, alpha=20),
)
