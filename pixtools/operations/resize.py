"""Resize: resample the picture to another size (see `imaging/geometry.py`).

Encoders have these parameters too, under `resize`. But if several steps need the same size, this operation saves time:
it resamples the picture once, and all these steps read the result.
"""

from __future__ import annotations

from pixtools.imaging.memory_bounds import Memory
from pixtools.imaging.picture import Picture, Size
from pixtools.operations.base.kinds import Transform
from pixtools.operations.base.params import TransformParams
from pixtools.operations.base.resizing import Resizing


class Resize(Resizing, TransformParams):
    """Parameters of the resize operation."""

    def size(self, size: Size) -> Size:
        """Return the size of the result for a picture of `size`."""
        return self.placement(size).canvas

    def needed_size(self, size: Size) -> Size:
        """Return the size of a picture of `size` after scaling, before margins are added or edges are cut off."""
        return self.placement(size).scaled


def run(picture: Picture, params: Resize) -> Picture:
    """Return the picture in its new size."""
    return params.apply(picture)


RESIZE = Transform(
    name="resize",
    title="Resize",
    summary="Changes the size, once for all steps that read the result.",
    version=2,
    params=Resize,
    run=run,
    cost=lambda _: 8,
    memory=lambda _: Memory(4),
)
