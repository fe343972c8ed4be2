from __future__ import annotations

from pixtools.imaging.memory_bounds import Memory
from pixtools.imaging.picture import Picture, Size
from pixtools.operations.base.kinds import Resizing, Transform, TransformParams


class Resize(Resizing, TransformParams):
    def size(self, size: Size) -> Size:
        return self.placement(size).canvas

    def enough(self, size: Size) -> Size:
        return self.placement(size).scaled


def run(picture: Picture, params: Resize) -> Picture:
    return params.apply(picture)


RESIZE = Transform(
    name="resize",
    title="Resize",
    summary="Another size, made once for every step that reads it.",
    version=2,
    params=Resize,
    run=run,
    cost=lambda _: 8,
    memory=lambda _: Memory(4),
)
