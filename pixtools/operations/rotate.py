"""Rotate: turn the picture by any angle. Multiples of 90 degrees are lossless; other angles resample the pixels."""

from __future__ import annotations

from pydantic import Field

from pixtools.imaging.geometry import rotate, rotated_size
from pixtools.imaging.memory_bounds import Memory
from pixtools.imaging.picture import Picture, Size
from pixtools.operations.base.kinds import Transform
from pixtools.operations.base.params import Color, TransformParams


class Rotate(TransformParams):
    """Parameters of the rotation."""

    degrees: float = Field(ge=-360, le=360, title="Degrees", description="clockwise")
    background: Color | None = Field(
        None,
        title="Background",
        description="colour of the corners if the angle is not a multiple of 90; transparent if left out",
    )

    @property
    def adds_alpha(self) -> bool:
        """Whether an opaque picture gets transparent corners."""
        return self.degrees % 90 != 0 and self.background is None

    def size(self, size: Size) -> Size:
        """Return the size of the result: the smallest canvas that holds the whole rotated picture."""
        return rotated_size(size, self.degrees)


def run(picture: Picture, params: Rotate) -> Picture:
    """Return the turned picture."""
    return rotate(picture, params.degrees, params.background)


ROTATE = Transform(
    name="rotate",
    title="Rotate",
    summary="Turns the picture. Right angles are lossless.",
    version=1,
    params=Rotate,
    run=run,
    cost=lambda params: 2 if params.degrees % 90 == 0 else 25,
    memory=lambda params: Memory(4 if params.degrees % 90 == 0 else 24),
)
