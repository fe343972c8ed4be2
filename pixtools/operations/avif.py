from __future__ import annotations

from pydantic import Field

from pixtools.imaging.encoding import encode
from pixtools.imaging.picture import Picture
from pixtools.operations.base import AnimatedParams, Encoder


class Avif(AnimatedParams):
    quality: int = Field(65, ge=1, le=100, title="Quality", description="higher is better and larger")
    speed: int = Field(9, ge=0, le=10, title="Speed", description="higher is faster and larger")


def run(picture: Picture, params: Avif) -> bytes:
    # codec: whichever plugin is loaded, aom. autotiling off: the same picture gives the same bytes anywhere.
    # One thread: a converter holds one CPU.
    return encode(
        picture, "AVIF",
        quality=params.quality, speed=params.speed, codec="aom", autotiling=False, max_threads=1,
    )  # fmt: skip


AVIF = Encoder(
    name="avif",
    title="AVIF",
    summary="Small files for photos, with transparency; current browsers show it.",
    version=2,
    params=Avif,
    run=run,
    cost=lambda params: 50 * 2.2 ** (9 - params.speed),  # a little more than half with each speed
    media_type="image/avif",
    extension="avif",
)
