from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from pixtools.imaging.codecs import AVIF_PLUGIN
from pixtools.imaging.color import without_grey_profile
from pixtools.imaging.encoding import encode
from pixtools.imaging.memory_bounds import Memory
from pixtools.imaging.picture import Picture, Size
from pixtools.imaging.quality_search import Curve
from pixtools.operations.base.goals import Lossy, LossyEncoder
from pixtools.operations.base.kinds import ADVANCED, AnimatedParams, Misfit

_LIGHT_SPEED = 6  # from here on the encoder keeps less of what it tried
_LEAST_SIDE_OF_SVT = 4
_MATRICES = ((22, 6), (38, 7), (61, 8), (85, 9), (101, 10))  # aom's by quality, as aom's own tables have it


class Avif(Lossy, AnimatedParams):
    quality: int = Field(60, ge=1, le=100, title="Quality", description="higher is better and larger")
    speed: int = Field(
        9, ge=0, le=10, title="Speed", description="higher is faster and larger", json_schema_extra=ADVANCED
    )
    subsampling: Literal["4:2:0", "4:2:2", "4:4:4"] = Field(
        "4:2:0",
        title="Subsampling",
        description="of colour: 4:4:4 keeps fine red and blue lines and is larger",
        json_schema_extra=ADVANCED,
    )
    encoder: Literal["aom", "svt", "rav1e"] = Field(
        "aom",
        title="Encoder",
        description="aom is the best of them on photos; svt and rav1e are there to compare",
        json_schema_extra=ADVANCED,
    )

    def prepare(self, picture: Picture) -> Picture:
        picture = super().prepare(picture)
        return picture if self._stores_grey(picture) else without_grey_profile(picture)

    def _stores_grey(self, picture: Picture) -> bool:
        return picture.mode == "L" and self.encoder != "svt"  # with alpha, or by svt, grey is written as RGB

    @model_validator(mode="after")
    def _suits_the_encoder(self) -> Avif:
        if self.encoder == "svt" and self.subsampling != "4:2:0":
            raise ValueError("svt knows no subsampling but 4:2:0; leave it out, or take another encoder")
        return self

    def size(self, size: Size) -> Size:
        found = super().size(size)
        if self.encoder == "svt" and min(found) < _LEAST_SIDE_OF_SVT:
            raise Misfit("encoder", f"svt needs {_LEAST_SIDE_OF_SVT} pixels a side; take aom for so small a picture")
        return found


def run(picture: Picture, params: Avif) -> bytes:
    return _encoded(picture, params, {})


def between(picture: Picture, params: Avif) -> bytes:
    """Make a file about half a step better than that of the quality: aom has 64 quantisers, libavif 100 qualities.

    By the next quantisation matrix beside the one that libavif's tuning for still pictures takes at this quality:
    4 % more bytes than a quantiser of its own would need, and up to 10 above quality 60, where nobody asks for it.
    """
    if params.encoder != "aom":
        return run(picture, params)
    matrix = str(next(level for below, level in _MATRICES if params.quality < below) + 1)
    return _encoded(picture, params, {"advanced": {"enable-qm": "1", "qm-min": matrix, "qm-max": matrix}})


def _encoded(picture: Picture, params: Avif, options: dict[str, Any]) -> bytes:
    # Grey has no colour to sample; svt alone has to be told that it has.
    subsampling = "4:0:0" if picture.mode == "L" and params.encoder != "svt" else params.subsampling
    kind = "AVIF" if params.encoder == "aom" else AVIF_PLUGIN
    # codec: by name, not the first there is. autotiling off: the same picture gives the same bytes anywhere.
    # One thread: a converter holds one CPU.
    return encode(
        picture, kind, quality=params.quality, speed=params.speed, subsampling=subsampling,
        codec=params.encoder, autotiling=False, max_threads=1, **options,
    )  # fmt: skip


def memory(params: Avif) -> Memory:
    whole = 36 if params.speed >= _LIGHT_SPEED else 60
    return params.memory_of(Memory(whole if params.subsampling == "4:2:0" else whole + 10, alpha=8))


AVIF = LossyEncoder(
    name="avif",
    title="AVIF",
    summary="Small files for photos, with transparency; current browsers show it.",
    version=4,
    params=Avif,
    run=run,
    between=between,
    # A little more than half with each speed.
    cost=lambda params: params.cost_of((300 if params.encoder == "rav1e" else 50) * 2.2 ** (9 - params.speed)),
    memory=memory,
    scores=Curve((-24.0, -20.0, 0.0, 32.0, 63.4, 75.3, 81.5, 85.8, 89.2, 90.8, 93.8)),
    sizes=Curve((8.46, 8.53, 9.0, 9.71, 10.62, 11.12, 11.5, 11.81, 12.21, 12.51, 13.09)),
    media_type="image/avif",
    extension="avif",
)
