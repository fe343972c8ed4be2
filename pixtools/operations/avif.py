"""AVIF encoding with libaom (through Pillow and libavif): AV1 still pictures and animations, with transparency.

libaom is the only encoder, because users have no reason to choose another encoder. The encoders were compared at equal
SSIMULACRA2 scores of 70 and 82. With SVT-AV1, photos are 8 to 15 % larger and take about the same CPU time. Screenshots
are 3 to 6 % smaller, but take 10 to 20 % more CPU time. With rav1e, files are larger and take four times the CPU time.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic.json_schema import SkipJsonSchema

from pixtools.imaging.encoding import encode
from pixtools.imaging.memory_bounds import Memory
from pixtools.imaging.picture import Picture
from pixtools.imaging.quality_search import Curve
from pixtools.operations.base.encode_params import AnimatedParams
from pixtools.operations.base.goals import Lossy, LossyEncoder
from pixtools.operations.base.params import ADVANCED
from pixtools.operations.base.preparation import (
    convert_color,
    drop_grey_profile,
    first_frame_if_asked,
    resize,
    select_metadata,
)

_FAST_SPEED = 6  # at this speed and all higher speeds, libaom keeps less data in memory
# The quantisation matrices that libaom's tuning for still pictures chooses, as pairs (limit, matrix). The first pair
# whose limit is above the quality applies.
_MATRICES = ((22, 6), (38, 7), (61, 8), (85, 9), (101, 10))


def _reject_other_encoders(encoder: object) -> object:
    if encoder in ("svt", "rav1e"):
        raise ValueError(f"{encoder} is not available; leave `encoder` out: PixTools writes every AVIF with aom")
    return encoder


class Avif(Lossy, AnimatedParams):
    """Parameters of the AVIF encoder."""

    quality: int = Field(
        60, ge=1, le=100, title="Quality", description="higher values look better, but the file is larger"
    )
    speed: int = Field(
        9,
        ge=0,
        le=10,
        title="Speed",
        description="higher values are faster, but the file is larger; at 8, screenshots are a third smaller than at 9",
        json_schema_extra=ADVANCED,
    )
    subsampling: Literal["4:2:0", "4:2:2", "4:4:4"] = Field(
        "4:2:0",
        title="Subsampling",
        description="colour resolution: 4:4:4 keeps fine red and blue lines, but the file is larger",
        json_schema_extra=ADVANCED,
    )
    # This field is not in the schema, because users have no choice. A request may contain `"encoder": "aom"`.
    encoder: SkipJsonSchema[Annotated[Literal["aom"], BeforeValidator(_reject_other_encoders)]] = "aom"


def _stores_grey(picture: Picture) -> bool:
    """Return whether the file stores grey values. A grey picture with transparency is stored as RGB."""
    return picture.mode == "L"


def drop_grey_profile_unless_stored_grey(picture: Picture, params: Avif) -> Picture:
    """Convert a grey picture to sRGB, without a profile, if the file stores the picture as RGB."""
    return picture if _stores_grey(picture) else drop_grey_profile(picture, params)


def run(picture: Picture, params: Avif) -> bytes:
    """Encode a prepared picture."""
    return _encode(picture, params, {})


def half_step(picture: Picture, params: Avif) -> bytes:
    """Encode with another quantisation matrix. Its number is higher by one than the number that libaom chooses.

    libavif maps its 100 qualities to libaom's 64 quantisers, so neighbouring qualities can give equal files. No
    quantiser lies between two neighbours, so this function changes the matrix. The file has about 4 % more bytes than a
    quantiser between the neighbours would need, and up to 10 % more above quality 60.
    """
    matrix = str(next(matrix for below, matrix in _MATRICES if params.quality < below) + 1)
    return _encode(picture, params, {"advanced": {"enable-qm": "1", "qm-min": matrix, "qm-max": matrix}})


def _encode(picture: Picture, params: Avif, options: dict[str, Any]) -> bytes:
    # codec: without this option, libavif uses the first encoder of its build.
    # autotiling: if this option were on, the bytes would depend on the machine.
    # max_threads: one thread is enough, because a converter has one CPU.
    return encode(
        picture, "AVIF", quality=params.quality, speed=params.speed,
        subsampling="4:0:0" if _stores_grey(picture) else params.subsampling,
        codec="aom", autotiling=False, max_threads=1, **options,
    )  # fmt: skip


def memory(params: Avif) -> Memory:
    """Return the peak memory, without the prepared picture."""
    per_pixel = 36 if params.speed >= _FAST_SPEED else 60
    return params.memory_of(Memory(per_pixel if params.subsampling == "4:2:0" else per_pixel + 10, alpha=8))


AVIF = LossyEncoder(
    name="avif",
    title="AVIF",
    summary="Small files for photos, with transparency. Current browsers show AVIF.",
    version=4,
    params=Avif,
    preparation=(first_frame_if_asked, resize, convert_color, select_metadata, drop_grey_profile_unless_stored_grey),
    run=run,
    half_step=half_step,
    cost=lambda params: params.cost_of(50 * 2.2 ** (9 - params.speed)),  # each lower speed takes about twice as long
    memory=memory,
    scores=Curve((-24.0, -20.0, 0.0, 32.0, 63.4, 75.3, 81.5, 85.8, 89.2, 90.8, 93.8)),
    sizes=Curve((8.46, 8.53, 9.0, 9.71, 10.62, 11.12, 11.5, 11.81, 12.21, 12.51, 13.09)),
    media_type="image/avif",
    extension="avif",
)
