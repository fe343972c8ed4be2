from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from pixtools.imaging.color import without_grey_profile
from pixtools.imaging.encoding import encode
from pixtools.imaging.memory_bounds import Memory
from pixtools.imaging.picture import Picture
from pixtools.imaging.quality_search import Curve
from pixtools.operations.base.goals import Lossy, LossyEncoder
from pixtools.operations.base.kinds import ADVANCED, AnimatedParams

_EFFORT = 4  # beyond it, twice the time buys 4 %
# libwebp's own presets: method, and a quality that says how hard to look for matches. The first costs a nineteenth
# of the fourth for 10 % more bytes on photos.
_LOSSLESS = ((0, 0), (1, 20), (2, 25), (3, 30), (4, 50), (5, 75), (6, 75))


class Webp(Lossy, AnimatedParams):
    quality: int = Field(80, ge=1, le=100, title="Quality", description="higher is better and larger")
    effort: int | None = Field(
        None,
        ge=0,
        le=6,
        title="Effort",
        description="higher is slower and smaller; usually 4, lossless 0",
        json_schema_extra=ADVANCED,
    )
    lossless: bool = Field(default=False, title="Lossless", description="keep every pixel that shows")

    def prepare(self, picture: Picture) -> Picture:
        return without_grey_profile(super().prepare(picture))

    @model_validator(mode="after")
    def _has_a_quality_or_none(self) -> Webp:
        if self.lossless and "quality" in self.model_fields_set:
            raise ValueError("leave out quality or lossless: there is no quality where every pixel is kept")
        if self.lossless and self.has_goal:
            raise ValueError("leave out lossless: target, max_bytes and keep_smaller are reached by losing something")
        return self


def run(picture: Picture, params: Webp) -> bytes:
    return encode(picture, "WEBP", **_options(params))


def _options(params: Webp) -> dict[str, Any]:
    if params.lossless:
        method, quality = _LOSSLESS[params.effort or 0]
        return {"lossless": True, "quality": quality, "method": method}
    return {"quality": params.quality, "method": _EFFORT if params.effort is None else params.effort}


def cost(params: Webp) -> float:
    if params.lossless:
        return (60, 150, 250, 400, 1_100, 1_500, 3_000)[params.effort or 0]
    once = (20, 27, 34, 55, 75, 110, 160)[_EFFORT if params.effort is None else params.effort]
    return params.cost_of(once)


WEBP = LossyEncoder(
    name="webp",
    title="WebP",
    summary="Smaller than JPG at the same quality, with transparency; every browser shows it.",
    version=3,
    params=Webp,
    run=run,
    cost=cost,
    memory=lambda params: params.memory_of(Memory(28, alpha=6) if params.lossless else Memory(15, alpha=30)),
    scores=Curve((-4.0, 13.0, 32.0, 47.0, 59.0, 65.5, 69.0, 79.0, 85.6, 89.7, 90.5)),
    sizes=Curve((9.29, 9.6, 9.96, 10.33, 10.68, 10.88, 11.01, 11.46, 11.9, 12.33, 12.51)),
    media_type="image/webp",
    extension="webp",
)
