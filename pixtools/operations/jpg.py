from __future__ import annotations

import io
from typing import Any, Literal, cast

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from pydantic import Field

from pixtools.imaging.color import flatten, with_room_for
from pixtools.imaging.encoding import encode
from pixtools.imaging.memory_bounds import Memory
from pixtools.imaging.picture import Picture
from pixtools.imaging.quality_search import Curve
from pixtools.operations.base.goals import Lossy, LossyEncoder
from pixtools.operations.base.kinds import ADVANCED, Color


class Jpg(Lossy):
    quality: int = Field(85, ge=1, le=100, title="Quality", description="higher is better and larger")
    subsampling: Literal["4:2:0", "4:2:2", "4:4:4"] = Field(
        "4:2:0",
        title="Subsampling",
        description="of colour: 4:4:4 keeps fine red and blue lines and is larger",
        json_schema_extra=ADVANCED,
    )
    background: Color = Field(
        "#ffffff", title="Background", description="what transparency becomes", json_schema_extra=ADVANCED
    )
    progressive: bool = Field(
        default=False,
        title="Progressive",
        description="shows all of it early and is smaller; slower to make and open",
        json_schema_extra=ADVANCED,
    )

    def frame_count(self, frames: int) -> int:  # noqa: ARG002
        return 1  # a JPEG holds no animation

    def prepare(self, picture: Picture) -> Picture:
        picture = super().prepare(picture.first())
        if picture.has_alpha:
            picture = with_room_for(self.background, picture)
        return flatten(picture, self.background)


def run(picture: Picture, params: Jpg) -> bytes:
    return _encoded(picture, params, {"quality": params.quality})


def between(picture: Picture, params: Jpg) -> bytes:
    """Make a file a part of a step better than that of the quality: with colour as the next quality has it.

    The tables of a quality are rounded: one step may be worth two points of SSIMULACRA2, most of it for the colour.
    """
    if picture.mode != "RGB":
        return run(picture, params)
    finer, own = (_tables(quality) for quality in (min(params.quality + 1, 100), params.quality))
    return _encoded(picture, params, {"qtables": [own[0], finer[1]]})


def _encoded(picture: Picture, params: Jpg, options: dict[str, Any]) -> bytes:
    chroma = {"subsampling": params.subsampling} if picture.mode == "RGB" else {}  # grey has none
    return encode(picture, "JPEG", progressive=params.progressive, **chroma, **options)


def _tables(quality: int) -> dict[int, list[int]]:
    """Return the quantisation tables of a quality: brightness, colour."""
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "JPEG", quality=quality)
    return cast("JpegImageFile", Image.open(out)).quantization


JPG = LossyEncoder(
    name="jpg",
    title="JPG",
    summary="Opens everywhere; transparency becomes a colour.",
    version=2,
    params=Jpg,
    run=run,
    between=between,
    cost=lambda params: params.cost_of(17.5 if params.progressive else 2.5),
    memory=lambda params: params.memory_of(Memory(12, alpha=12)),
    scores=Curve((-64.0, -55.0, 13.0, 46.3, 62.7, 69.8, 75.6, 81.9, 87.1, 92.2, 94.7)),
    sizes=Curve((9.56, 9.81, 10.35, 10.73, 11.04, 11.26, 11.47, 11.79, 12.13, 12.65, 13.15)),
    media_type="image/jpeg",
    extension="jpg",
)
