from __future__ import annotations

from pydantic import Field

from pixtools.imaging.color import flatten
from pixtools.imaging.encoding import encode
from pixtools.imaging.picture import Picture
from pixtools.operations.base import EncodeParams, Encoder


class Jpg(EncodeParams):
    quality: int = Field(85, ge=1, le=95, title="Quality", description="higher is better and larger")

    def prepare(self, picture: Picture) -> Picture:
        return super().prepare(picture.first())  # a JPEG holds no animation


def run(picture: Picture, params: Jpg) -> bytes:
    return encode(flatten(picture), "JPEG", quality=params.quality)


JPG = Encoder(
    name="jpg",
    title="JPG",
    summary="Opens everywhere; transparency becomes white.",
    version=2,
    params=Jpg,
    run=run,
    cost=lambda _: 2.5,
    media_type="image/jpeg",
    extension="jpg",
)
