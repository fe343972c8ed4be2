"""WebP encoding with libwebp (through Pillow): RFC 9649, lossy or lossless, with transparency and animation.

WebP has no grey mode, so grey pictures are stored as RGB.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

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

_LOSSY_EFFORT = 4  # the default; more effort takes twice the CPU time and saves only 4 % of the bytes
_LOSSLESS_EFFORT = 0  # the default; on photos, effort 4 takes 19 times the CPU time and saves 10 % of the bytes
# The (method, quality) of libwebp's lossless preset for each effort. With a higher quality, libwebp searches longer for
# matches.
_LOSSLESS_PRESETS = ((0, 0), (1, 20), (2, 25), (3, 30), (4, 50), (5, 75), (6, 75))
# Milliseconds per megapixel for each effort.
_LOSSLESS_COSTS = (60, 150, 250, 400, 1_100, 1_500, 3_000)
_LOSSY_COSTS = (20, 27, 34, 55, 75, 110, 160)


class Webp(Lossy, AnimatedParams):
    """Parameters of the WebP encoder."""

    quality: int = Field(
        80, ge=1, le=100, title="Quality", description="higher values look better, but the file is larger"
    )
    effort: int | None = Field(
        None,
        ge=0,
        le=6,
        title="Effort",
        description=f"higher values are slower, but the file is smaller; default {_LOSSY_EFFORT}, "
        f"or {_LOSSLESS_EFFORT} with `lossless`",
        json_schema_extra=ADVANCED,
    )
    lossless: bool = Field(default=False, title="Lossless", description="keep every visible pixel exactly")

    @model_validator(mode="after")
    def _check_lossless(self) -> Webp:
        if self.lossless and "quality" in self.model_fields_set:
            raise ValueError("leave out `quality` or `lossless`: a lossless file has no quality")
        if self.lossless and self.has_goal:
            raise ValueError("leave out `lossless`: `target`, `max_bytes` and `keep_smaller` need a lossy file")
        return self


def run(picture: Picture, params: Webp) -> bytes:
    """Encode a prepared picture."""
    return encode(picture, "WEBP", **_options(params))


def _options(params: Webp) -> dict[str, Any]:
    if params.lossless:
        method, quality = _LOSSLESS_PRESETS[_effort(params)]
        return {"lossless": True, "quality": quality, "method": method}
    return {"quality": params.quality, "method": _effort(params)}


def _effort(params: Webp) -> int:
    if params.effort is not None:
        return params.effort
    return _LOSSLESS_EFFORT if params.lossless else _LOSSY_EFFORT


def cost(params: Webp) -> float:
    """Return the approximate CPU time in milliseconds per megapixel."""
    if params.lossless:
        return _LOSSLESS_COSTS[_effort(params)]
    return params.cost_of(_LOSSY_COSTS[_effort(params)])


WEBP = LossyEncoder(
    name="webp",
    title="WebP",
    summary="Smaller than JPG at the same quality, with transparency. Every browser shows WebP.",
    version=3,
    params=Webp,
    preparation=(first_frame_if_asked, resize, convert_color, select_metadata, drop_grey_profile),
    run=run,
    cost=cost,
    memory=lambda params: params.memory_of(Memory(28, alpha=6) if params.lossless else Memory(15, alpha=30)),
    scores=Curve((-4.0, 13.0, 32.0, 47.0, 59.0, 65.5, 69.0, 79.0, 85.6, 89.7, 90.5)),
    sizes=Curve((9.29, 9.6, 9.96, 10.33, 10.68, 10.88, 11.01, 11.46, 11.9, 12.33, 12.51)),
    media_type="image/webp",
    extension="webp",
)
