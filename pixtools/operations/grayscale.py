from __future__ import annotations

from pixtools.imaging.color import to_grey
from pixtools.imaging.footprint import Memory
from pixtools.imaging.picture import Picture
from pixtools.operations.base import Transform, TransformParams


class Grayscale(TransformParams):
    pass


def run(picture: Picture, params: Grayscale) -> Picture:  # noqa: ARG001
    return to_grey(picture)


GRAYSCALE = Transform(
    name="grayscale",
    title="Grayscale",
    summary="Takes the colour out.",
    version=1,
    params=Grayscale,
    run=run,
    cost=lambda _: 3,
    memory=lambda _: Memory(8, alpha=8),
)
