"""Goals: a perceptual score to reach or a size to stay under, in place of a quality."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from pydantic import Field, model_validator

from pixtools.errors import GoalOutOfReach
from pixtools.imaging.codecs import SCORER
from pixtools.imaging.decoding import decode
from pixtools.imaging.memory_bounds import Memory
from pixtools.imaging.picture import Picture
from pixtools.imaging.quality_search import HIGHEST, LOWEST, Curve, search
from pixtools.operations.base.kinds import ADVANCED, Encoded, EncodeParams, Encoder

_TARGET_TRIES = 6
_TOLERANCE = 1.0  # of a score
_CAP_TRIES = 6  # beside the lowest quality, which is tried last where nothing else has fitted
_NEAR_ENOUGH = 0.5  # of a score: what is left of the tolerance is for the sample that it is taken from
_TOO_FAR = 0.6  # of a score, where a codec has something between two qualities
_FILES = 6.0  # bytes a pixel that all that were tried have together
_DECODING = 28.0  # bytes a pixel, of any of our own formats
_SCORING_BYTES = 700_000_000  # of the metric, which looks at so many pixels and no more
_FULL_ENOUGH = 0.95  # of the bytes allowed


class Lossy(EncodeParams):
    """Parameters of a lossy encoder: a quality, or what the quality is for."""

    quality: int = Field(ge=1, le=100, title="Quality", description="higher is better and larger")
    target: float | None = Field(
        None,
        ge=30,
        le=95,
        title="Target",
        description="SSIMULACRA2 score to reach, in place of a quality: 70 is high, 85 hard to tell from the source",
    )
    max_bytes: int | None = Field(
        None,
        ge=1,
        title="Most bytes",
        description="the quality is lowered until the file is no larger",
        json_schema_extra=ADVANCED,
    )
    keep_smaller: bool = Field(
        default=False,
        title="Keep smaller",
        description="never larger than the source: the quality is lowered until the file is not",
        json_schema_extra=ADVANCED,
    )

    @model_validator(mode="after")
    def _has_one_master(self) -> Lossy:
        if self.target is not None and "quality" in self.model_fields_set:
            raise ValueError("leave out quality or target: the target decides the quality")
        return self

    def identity(self) -> dict[str, Any]:
        return super().identity() | ({} if self.target is None else {"scorer": SCORER})

    @property
    def has_goal(self) -> bool:
        return self.target is not None or self.max_bytes is not None or self.keep_smaller

    def cap(self, source_bytes: int) -> tuple[int, str] | None:
        """Return how many bytes the file may have and the parameter that says so, or None."""
        caps = [(self.max_bytes, "max_bytes")] if self.max_bytes is not None else []
        return min([*caps, (source_bytes, "keep_smaller")] if self.keep_smaller else caps, default=None)

    def cost_of(self, once: float) -> float:
        """Return the cost of reaching the goals where one encode costs `once`; a score takes seconds a megapixel."""
        tries = 1.0 if self.target is None else 4.0
        if self.max_bytes is not None or self.keep_smaller:
            tries += 3.0
        return once * tries + (0.0 if self.target is None else 4_000.0)

    def memory_of(self, once: Memory) -> Memory:
        """Return what reaching the goals takes where one encode takes `once`: each file is kept, and scored."""
        if not self.has_goal:
            return once
        if self.target is None:
            return replace(once, per_pixel=once.per_pixel + _FILES)
        return replace(once, per_pixel=max(once.per_pixel, _DECODING) + _FILES, constant=once.constant + _SCORING_BYTES)


L = TypeVar("L", bound=Lossy)


@dataclass(frozen=True, kw_only=True)
class LossyEncoder(Encoder[L]):
    """An encoder with a quality, which it can find by itself."""

    scores: Curve  # of SSIMULACRA2 by quality
    sizes: Curve  # of the logarithm of bytes by quality, in any unit
    between: Callable[[Picture, L], bytes] | None = None  # a little better, where qualities are few and far apart

    def encode(self, picture: Picture, params: L, source_bytes: int) -> Encoded:
        """Make the file; with goals, the facts are what was reached and how. Raises GoalOutOfReach."""
        if not params.has_goal:
            return super().encode(picture, params, source_bytes)
        prepared = params.prepare(picture)
        tries = _Tries(self, params, prepared)
        quality = params.quality if params.target is None else tries.nearest(params.target)
        facts: dict[str, Any] = {}
        if cap := params.cap(source_bytes):
            fitting = tries.largest_within(cap, quality)
            if fitting < quality:
                quality, facts = fitting, {"lowered_for": cap[1]}
        facts = {"quality": quality, **facts}
        if params.target is not None:
            score = tries.score(quality)
            # The best there is, rather than an error, where a codec does not go as high as the target on this
            # picture (4:2:0 has an end below 95): the file is what a caller would ask for next, and this says so.
            facts |= {"score": round(score, 1), "target": params.target, "reached": score >= params.target - _TOLERANCE}
        return Encoded(tries.file(quality), prepared, facts | {"encodes": len(tries.files)})


@dataclass
class _Tries:
    """The files of one picture, by quality; each is made once."""

    encoder: LossyEncoder[Any]
    params: Lossy
    picture: Picture
    files: dict[float, bytes] = field(default_factory=dict)  # half a quality is one between two
    scores: dict[float, float] = field(default_factory=dict)
    reference: Any = None

    def file(self, quality: float) -> bytes:
        if quality not in self.files:
            whole = math.floor(quality)
            make = self.encoder.run if quality == whole else self.encoder.between
            assert make is not None  # noqa: S101 (who has it asks for it)
            self.files[quality] = make(self.picture, self.params.model_copy(update={"quality": whole}))
        return self.files[quality]

    def score(self, quality: float) -> float:
        if quality not in self.scores:
            from pixtools.imaging.score import Reference  # noqa: PLC0415 (scipy takes two seconds)

            self.reference = self.reference or Reference(self.picture)
            self.scores[quality] = self.reference.score(decode(self.file(quality)))
        return self.scores[quality]

    def nearest(self, target: float) -> float:
        """Return the quality whose score is nearest to `target`, and not below its tolerance if that can be helped."""

        def distance(quality: float) -> float:
            return abs(self.scores[quality] - target)

        accept = (target - _NEAR_ENOUGH, target + _NEAR_ENOUGH)
        search(self.score, self.encoder.scores, accept, self.scores, _TARGET_TRIES)
        below = [quality for quality, score in self.scores.items() if score < target and quality < HIGHEST]
        missed = distance(min(self.scores, key=distance)) > _TOO_FAR
        if missed and below and self.encoder.between and len(self.scores) < _TARGET_TRIES:
            self.score(max(below) + 0.5)
        reached = [quality for quality in self.scores if self.scores[quality] >= target - _TOLERANCE]
        return min(reached or self.scores, key=distance)

    def largest_within(self, cap: tuple[int, str], start: float) -> float:
        """Return the highest quality found, from `start` down, whose file has no more bytes than `cap`."""
        most, asked_by = cap
        if len(self.file(start)) <= most:
            return start
        sizes = {quality: math.log(len(data)) for quality, data in self.files.items() if quality <= start}
        accept = (math.log(most * _FULL_ENOUGH), math.log(most))
        search(lambda quality: math.log(len(self.file(quality))), self.encoder.sizes, accept, sizes, _CAP_TRIES, start)
        fitting = [quality for quality in sizes if len(self.file(quality)) <= most]
        if fitting:
            return max(fitting)
        least = len(self.file(LOWEST))
        if least > most:
            raise GoalOutOfReach(_too_large(self.encoder.title, least, most, asked_by))
        return LOWEST


def _too_large(title: str, least: int, most: int, asked_by: str) -> str:
    allowed = f"max_bytes allows {most:,}" if asked_by == "max_bytes" else f"the source has {most:,}"
    return f"At its lowest quality the {title} has {least:,} bytes, and {allowed}. Resize the picture, or allow more."
