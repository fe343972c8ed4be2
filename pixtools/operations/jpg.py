"""JPEG encoding with libjpeg-turbo (through Pillow): ITU-T T.81, 8 bits, baseline or progressive.

JPEG has no transparency, so transparent pictures are drawn on a background colour. JPEG has no animation, so only the
first frame is written.
"""

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
from pixtools.operations.base.params import ADVANCED, Color
from pixtools.operations.base.preparation import convert_color, first_frame, resize, select_metadata


class Jpg(Lossy):
    """Parameters of the JPEG encoder."""

    quality: int = Field(
        85, ge=1, le=100, title="Quality", description="higher values look better, but the file is larger"
    )
    subsampling: Literal["4:2:0", "4:2:2", "4:4:4"] = Field(
        "4:2:0",
        title="Subsampling",
        description="colour resolution: 4:4:4 keeps fine red and blue lines, but the file is larger",
        json_schema_extra=ADVANCED,
    )
    background: Color = Field(
        "#ffffff", title="Background", description="colour behind transparent pixels", json_schema_extra=ADVANCED
    )
    progressive: bool = Field(
        default=False,
        title="Progressive",
        description="browsers show a rough picture early; the file is smaller, but takes longer to write and to open",
        json_schema_extra=ADVANCED,
    )

    def frame_count(self, frames: int) -> int:  # noqa: ARG002
        """Return 1, because JPEG stores no animation."""
        return 1


def flatten_on_background(picture: Picture, params: Jpg) -> Picture:
    """Draw the picture on the background colour if the picture has transparency. Otherwise return it unchanged."""
    if not picture.has_alpha:
        return picture
    return flatten(with_room_for(params.background, picture), params.background)


def run(picture: Picture, params: Jpg) -> bytes:
    """Encode a prepared picture of mode L or RGB."""
    return _encode(picture, params, {"quality": params.quality})


def half_step(picture: Picture, params: Jpg) -> bytes:
    """Encode with the quantisation table of this quality for brightness, and of the next higher quality for colour.

    One quality step can change the SSIMULACRA2 score by two points, because the entries of the tables are rounded. Most
    of this change comes from the colour table.
    """
    if picture.mode != "RGB":
        return run(picture, params)
    finer, own = (_quantization_tables(quality) for quality in (min(params.quality + 1, 100), params.quality))
    return _encode(picture, params, {"qtables": [own[0], finer[1]]})


def _encode(picture: Picture, params: Jpg, options: dict[str, Any]) -> bytes:
    # A grey picture has no colour channels to subsample.
    subsampling = {"subsampling": params.subsampling} if picture.mode == "RGB" else {}
    return encode(picture, "JPEG", progressive=params.progressive, **subsampling, **options)


def _quantization_tables(quality: int) -> dict[int, list[int]]:
    """Return libjpeg's quantisation tables for a quality, 64 numbers each: table 0 for brightness, 1 for colour."""
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "JPEG", quality=quality)
    return cast("JpegImageFile", Image.open(out)).quantization


JPG = LossyEncoder(
    name="jpg",
    title="JPG",
    summary="Can be opened everywhere. A background colour replaces transparency.",
    version=2,
    params=Jpg,
    preparation=(first_frame, resize, convert_color, select_metadata, flatten_on_background),
    run=run,
    half_step=half_step,
    cost=lambda params: params.cost_of(17.5 if params.progressive else 2.5),
    memory=lambda params: params.memory_of(Memory(12, alpha=12)),
    scores=Curve((-64.0, -55.0, 13.0, 46.3, 62.7, 69.8, 75.6, 81.9, 87.1, 92.2, 94.7)),
    sizes=Curve((9.56, 9.81, 10.35, 10.73, 11.04, 11.26, 11.47, 11.79, 12.13, 12.65, 13.15)),
    media_type="image/jpeg",
    extension="jpg",
)
