from __future__ import annotations

from pydantic import Field

from pixtools.imaging.geometry import crop
from pixtools.imaging.memory_bounds import Memory
from pixtools.imaging.picture import Picture, Size
from pixtools.operations.base.kinds import Misfit, Side, Transform, TransformParams


class Crop(TransformParams):
    width: Side = Field(title="Width", description="pixels")
    height: Side = Field(title="Height", description="pixels")
    x: int | None = Field(
        None, ge=0, title="X", description="pixels from the left edge; without it the part is in the middle"
    )
    y: int | None = Field(
        None, ge=0, title="Y", description="pixels from the upper edge; without it the part is in the middle"
    )

    def size(self, size: Size) -> Size:
        for field, place, start, side, whole in (
            ("width", "x", self.x, self.width, size[0]),
            ("height", "y", self.y, self.height, size[1]),
        ):
            if start is not None and start >= whole:
                raise Misfit(place, f"{start} is outside of the picture, which has {whole} pixels; make it smaller")
            if (start or 0) + side > whole:
                at = f" from {start} on" if start else ""
                raise Misfit(field, f"{side} pixels{at} go beyond the picture, which has {whole}; make it smaller")
        return self.width, self.height


def run(picture: Picture, params: Crop) -> Picture:
    width, height = params.size(picture.size)
    left = (picture.size[0] - width) // 2 if params.x is None else params.x
    top = (picture.size[1] - height) // 2 if params.y is None else params.y
    return crop(picture, left, top, (width, height))


CROP = Transform(
    name="crop",
    title="Crop",
    summary="Cuts out a part of the picture.",
    version=1,
    params=Crop,
    run=run,
    cost=lambda _: 1,
    memory=lambda _: Memory(4),
)
