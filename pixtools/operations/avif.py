"""AVIF encoding with libaom (through Pillow and libavif): AV1 still pictures and animations, with transparency.

libaom is the only encoder, because users have no reason to choose another encoder. The encoders were compared at equal
SSIMULACRA2 of 70 and 82. SVT-AV1 makes photos 8 to 15 % larger in about the CPU time of libaom. It makes screenshots 3
to 6 % smaller with 10 to 20 % more CPU time. rav1e makes larger files in four times the CPU time.
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

_FAST_SPEED = 6  # from this speed on, libaom keeps less data in memory
# The quantisation matrices that libaom's tuning for still pictures chooses: (quality below, matrix).
_MATRICES = ((22, 6), (38, 7), (61, 8), (85, 9), (101, 10))


def _reject_other_encoders(encoder: object) -> object:
    if encoder in ("svt", "rav1e"):
        raise ValueError(f"{encoder} is not available; leave encoder out: aom makes smaller files of the same quality")
    return encoder


class Avif(Lossy, AnimatedParams):
    """Parameters of the AVIF encoder."""

    quality: int = Field(60, ge=1, le=100, title="Quality", description="higher is better and larger")
    speed: int = Field(
        9,
        ge=0,
        le=10,
        title="Speed",
        description="higher is faster and larger; 8 makes screenshots a third smaller",
        json_schema_extra=ADVANCED,
    )
    subsampling: Literal["4:2:0", "4:2:2", "4:4:4"] = Field(
        "4:2:0",
        title="Subsampling",
        description="colour resolution: 4:4:4 keeps fine red and blue lines, but the file is larger",
        json_schema_extra=ADVANCED,
    )
    # Not in the schema, because there is nothing to choose. Requests that name the default stay valid.
    encoder: SkipJsonSchema[Annotated[Literal["aom"], BeforeValidator(_reject_other_encoders)]] = "aom"


def _stores_grey(picture: Picture) -> bool:
    """Return whether the file has no colour. A grey picture with transparency is written as RGB."""
    return picture.mode == "L"


def drop_grey_profile_unless_stored_grey(picture: Picture, params: Avif) -> Picture:
    """Return a grey picture in sRGB, without a profile, if the file stores it as RGB."""
    return picture if _stores_grey(picture) else drop_grey_profile(picture, params)


def run(picture: Picture, params: Avif) -> bytes:
    """Encode a prepared picture."""
    return _encode(picture, params, {})


def half_step(picture: Picture, params: Avif) -> bytes:
    """Encode with a higher quantisation matrix: the next after the matrix that libaom chooses for this quality.

    libavif maps its 100 qualities to libaom's 64 quantisers, so neighbouring qualities can give equal files. A
    quantiser between the two would need fewer bytes. This file has 4 % more, and up to 10 % more above quality 60.
    """
    matrix = str(next(matrix for below, matrix in _MATRICES if params.quality < below) + 1)
    return _encode(picture, params, {"advanced": {"enable-qm": "1", "qm-min": matrix, "qm-max": matrix}})


def _encode(picture: Picture, params: Avif, options: dict[str, Any]) -> bytes:
    # codec: the default is the first encoder in the build of libavif.
    # autotiling: with it, the bytes would depend on the machine.
    # max_threads: a converter has one CPU.
    return encode(
        picture, "AVIF", quality=params.quality, speed=params.speed,
        subsampling="4:0:0" if _stores_grey(picture) else params.subsampling,
        codec="aom", autotiling=False, max_threads=1, **options,
    )  # fmt: skip


def memory(params: Avif) -> Memory:
    """Return the peak memory beside the prepared picture."""
    per_pixel = 36 if params.speed >= _FAST_SPEED else 60
    return params.memory_of(Memory(per_pixel if params.subsampling == "4:2:0" else per_pixel + 10, alpha=8))


AVIF = LossyEncoder(
    name="avif",
    title="AVIF",
    summary="Small files for photos, with transparency. Current browsers show it.",
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
