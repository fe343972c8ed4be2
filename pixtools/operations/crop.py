"""Crop: cut a rectangle out of the picture. Pixels are copied without a change."""

from __future__ import annotations

from pydantic import Field

from pixtools.imaging.geometry import crop
from pixtools.imaging.memory_bounds import Memory
from pixtools.imaging.picture import Picture, Size
from pixtools.operations.base.kinds import Transform
from pixtools.operations.base.params import Side, TransformParams, UnsuitableParameter


class Crop(TransformParams):
    """The rectangle to cut out. Without `x`, it is centred horizontally. Without `y`, it is centred vertically."""

    width: Side = Field(title="Width", description="pixels")
    height: Side = Field(title="Height", description="pixels")
    x: int | None = Field(None, ge=0, title="X", description="pixels from the left edge; centred if left out")
    y: int | None = Field(None, ge=0, title="Y", description="pixels from the top edge; centred if left out")

    def size(self, size: Size) -> Size:
        """Return the size of the rectangle. Raises UnsuitableParameter if the rectangle does not fit into `size`."""
        for side_field, start_field, start, side, available in (
            ("width", "x", self.x, self.width, size[0]),
            ("height", "y", self.y, self.height, size[1]),
        ):
            if start is not None and start >= available:
                raise UnsuitableParameter(
                    start_field,
                    f"{start} is outside of the picture, which has {available} pixels in this direction; "
                    "give a smaller number",
                )
            if (start or 0) + side > available:
                starting = f" from {start} on" if start else ""
                raise UnsuitableParameter(
                    side_field,
                    f"{side} pixels{starting} exceed the picture, which has {available} pixels in this direction; "
                    "give a smaller number",
                )
        return self.width, self.height


def run(picture: Picture, params: Crop) -> Picture:
    """Return the part of the picture inside the rectangle."""
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
