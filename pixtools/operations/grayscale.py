"""Grayscale: keep the brightness of each pixel (luma of ITU-R BT.601, in sRGB) and drop its colour."""

from __future__ import annotations

from pixtools.imaging.color import to_grey
from pixtools.imaging.memory_bounds import Memory
from pixtools.imaging.picture import Picture
from pixtools.operations.base.kinds import Transform
from pixtools.operations.base.params import TransformParams


class Grayscale(TransformParams):
    """Parameters of the grayscale operation."""


def run(picture: Picture, params: Grayscale) -> Picture:  # noqa: ARG001
    """Return the picture in mode L or LA, without a colour profile."""
    return to_grey(picture)


GRAYSCALE = Transform(
    name="grayscale",
    title="Grayscale",
    summary="Removes the colour.",
    version=1,
    params=Grayscale,
    run=run,
    cost=lambda _: 3,
    memory=lambda _: Memory(8, alpha=8),
)
