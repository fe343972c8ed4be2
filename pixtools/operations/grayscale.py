from __future__ import annotations

from pixtools.imaging.color import to_grey
from pixtools.imaging.memory_bounds import Memory
from pixtools.imaging.picture import Picture
from pixtools.operations.base.kinds import Transform, TransformParams


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
