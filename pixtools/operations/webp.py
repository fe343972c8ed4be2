from __future__ import annotations

from pydantic import Field

from pixtools.imaging.encoding import encode
from pixtools.imaging.picture import Picture
from pixtools.operations.base import AnimatedParams, Encoder

_METHOD = 4  # 0 fast .. 6 small; beyond 4, twice the time buys 4 %


class Webp(AnimatedParams):
    quality: int = Field(80, ge=1, le=100, title="Quality", description="higher is better and larger")
    lossless: bool = Field(default=False, title="Lossless", description="keep every pixel; quality is then unused")


def run(picture: Picture, params: Webp) -> bytes:
    if params.lossless:
        return encode(picture, "WEBP", lossless=True, quality=0, method=0)
    return encode(picture, "WEBP", quality=params.quality, method=_METHOD)


WEBP = Encoder(
    name="webp",
    title="WebP",
    summary="Smaller than JPG at the same quality, with transparency; every browser shows it.",
    version=2,
    params=Webp,
    run=run,
    cost=lambda params: 60 if params.lossless else 75,
    media_type="image/webp",
    extension="webp",
)
