from __future__ import annotations

from pydantic import Field

from pixtools.imaging.geometry import rotate, rotated_size
from pixtools.imaging.memory_bounds import Memory
from pixtools.imaging.picture import Picture, Size
from pixtools.operations.base.kinds import Color, Transform, TransformParams


class Rotate(TransformParams):
    degrees: float = Field(ge=-360, le=360, title="Degrees", description="clockwise")
    background: Color | None = Field(
        None,
        title="Background",
        description="of the corners of a picture turned by no right angle; without one they are transparent",
    )

    @property
    def adds_alpha(self) -> bool:
        return self.degrees % 90 != 0 and self.background is None

    def size(self, size: Size) -> Size:
        return rotated_size(size, self.degrees)


def run(picture: Picture, params: Rotate) -> Picture:
    return rotate(picture, params.degrees, params.background)


ROTATE = Transform(
    name="rotate",
    title="Rotate",
    summary="Turns the picture; by right angles without loss.",
    version=1,
    params=Rotate,
    run=run,
    cost=lambda params: 2 if params.degrees % 90 == 0 else 25,
    memory=lambda params: Memory(4 if params.degrees % 90 == 0 else 24),
)
