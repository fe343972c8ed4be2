from __future__ import annotations

from pixtools.imaging import Picture
from pixtools.operations.base import Box, Transform, TransformParams


class Resize(Box, TransformParams):
    pass


def run(picture: Picture, params: Resize) -> Picture:
    return params.apply(picture)


RESIZE = Transform(
    name="resize",
    title="Resize",
    summary="Fits the picture inside a size, once for every step that reads it.",
    version=1,
    params=Resize,
    run=run,
    cost=lambda _: 8,
)
