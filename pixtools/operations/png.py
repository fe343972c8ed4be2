from __future__ import annotations

from typing import Any, Literal

from PIL import Image
from pydantic import Field

from pixtools.imaging import png_16_bit
from pixtools.imaging.encoding import encode
from pixtools.imaging.memory_bounds import Memory
from pixtools.imaging.palette import indexed
from pixtools.imaging.picture import Picture
from pixtools.operations.base.kinds import ADVANCED, AnimatedParams, Encoder

_RUN_LENGTH = 3  # zlib's Z_RLE strategy
_FAST = {"compress_level": 1, "compress_type": _RUN_LENGTH}
_SMALL = {"compress_level": 6}
_SAMPLE_PIXELS = 32_768  # some 20 ms by both ways
_WORTH_IT = 0.9  # of the bytes: on photos, five times the cost buys less than 1 %


class Png(AnimatedParams):
    effort: Literal["auto", "fast", "small"] = Field(
        "auto",
        title="Effort",
        description="fast is right for photos, small for drawings and screenshots; auto looks which it is",
        json_schema_extra=ADVANCED,
    )
    palette: int | None = Field(
        None,
        ge=2,
        le=256,
        title="Palette",
        description="at most so many colours: loses some, much smaller",
        json_schema_extra=ADVANCED,
    )


def run(picture: Picture, params: Png) -> bytes:
    if params.palette is not None:
        picture = indexed(picture, params.palette)
    if picture.deep is not None:
        return png_16_bit.encode(picture, **(_SMALL if params.effort == "small" else _FAST))
    return encode(picture, "PNG", **_options(picture, params))


def _options(picture: Picture, params: Png) -> dict[str, Any]:
    match params.effort:
        case "fast":
            return _FAST
        case "small":
            return _SMALL
        case "auto":
            sample = Picture.still(_sample(picture.image))
            fast, small = (len(encode(sample, "PNG", **options)) for options in (_FAST, _SMALL))
            return _SMALL if small < _WORTH_IT * fast else _FAST


def _sample(image: Image.Image) -> Image.Image:
    """Return a few bands of whole rows, evenly spread."""
    width, height = image.size
    rows = max(1, _SAMPLE_PIXELS // width // 4)
    if rows * 4 >= height:
        return image
    bands = Image.new(image.mode, (width, rows * 4))
    if palette := image.getpalette():
        bands.putpalette(palette)
    for band in range(4):
        top = (height - rows) * band // 3
        bands.paste(image.crop((0, top, width, top + rows)), (0, rows * band))
    return bands


PNG = Encoder(
    name="png",
    title="PNG",
    summary="Lossless, with transparency; large for photos.",
    version=3,
    params=Png,
    run=run,
    cost=lambda params: 450 if params.effort == "small" else 100,
    memory=lambda params: Memory(6 if params.palette is None else 48, alpha=2),
    media_type="image/png",
    extension="png",
)
