"""PNG encoding (W3C PNG, third edition; zlib's deflate): lossless, with transparency, animation and 16-bit pixels."""

from __future__ import annotations

from typing import Any, Literal

from PIL import Image
from pydantic import Field

from pixtools.imaging import png_16_bit
from pixtools.imaging.encoding import encode
from pixtools.imaging.memory_bounds import Memory
from pixtools.imaging.palette import indexed
from pixtools.imaging.picture import Picture
from pixtools.operations.base.encode_params import AnimatedParams
from pixtools.operations.base.kinds import Encoder
from pixtools.operations.base.params import ADVANCED
from pixtools.operations.base.preparation import convert_color, first_frame_if_asked, resize, select_metadata

_RUN_LENGTH = 3  # zlib's strategy Z_RLE
_FAST = {"compress_level": 1, "compress_type": _RUN_LENGTH}
_SMALL = {"compress_level": 6}
_SAMPLE_PIXELS = 32_768  # to encode a sample of this size with `_FAST` and with `_SMALL` takes some 20 ms
# Size of the sample with `small`, divided by its size with `fast`. `auto` chooses `small` only below this ratio,
# because `small` is slow: on photos, it takes five times the CPU time and saves less than 1 % of the bytes.
_MAX_SIZE_RATIO = 0.9


class Png(AnimatedParams):
    """Parameters of the PNG encoder."""

    effort: Literal["auto", "fast", "small"] = Field(
        "auto",
        title="Effort",
        description="`fast` suits photos; `small` suits drawings and screenshots; `auto` chooses for each picture",
        json_schema_extra=ADVANCED,
    )
    palette: int | None = Field(
        None,
        ge=2,
        le=256,
        title="Palette",
        description="largest number of colours; some colours are lost, but the file is much smaller",
        json_schema_extra=ADVANCED,
    )


def run(picture: Picture, params: Png) -> bytes:
    """Encode a prepared picture. Without `palette`, a picture with 16-bit values keeps the 16 bits."""
    if params.palette is not None:
        picture = indexed(picture, params.palette)
    if picture.pixels_16 is not None:
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
            return _SMALL if small < _MAX_SIZE_RATIO * fast else _FAST


def _sample(image: Image.Image) -> Image.Image:
    """Return four bands of whole rows, evenly spaced over the image, with about `_SAMPLE_PIXELS` pixels in all."""
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
    summary="Lossless, with transparency. Photos become large files.",
    version=3,
    params=Png,
    preparation=(first_frame_if_asked, resize, convert_color, select_metadata),
    run=run,
    cost=lambda params: 450 if params.effort == "small" else 100,
    memory=lambda params: Memory(6 if params.palette is None else 48, alpha=2),
    media_type="image/png",
    extension="png",
)
