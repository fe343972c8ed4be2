"""Goals of a lossy encoder, instead of a fixed quality: a score to reach, or a largest size of the file.

The score is SSIMULACRA2 by Cloudinary, a perceptual measure. Its authors say that 90 is visually lossless, 70 is high
quality, and 50 is medium quality. `imaging/quality_search.py` proposes qualities. This module encodes a file at each
proposed quality, measures the file, and chooses the best file.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import Field, model_validator

from pixtools.errors import GoalOutOfReach
from pixtools.imaging.codecs import SCORER
from pixtools.imaging.decoding import decode
from pixtools.imaging.memory_bounds import Memory
from pixtools.imaging.picture import Picture
from pixtools.imaging.quality_search import HIGHEST, LOWEST, Curve, search
from pixtools.operations.base.encode_params import EncodeParams
from pixtools.operations.base.kinds import Encoded, Encoder
from pixtools.operations.base.params import ADVANCED

if TYPE_CHECKING:
    from pixtools.imaging.score import Reference

_TARGET_TRIES = 6  # most encodes to reach a target
_TOLERANCE = 1.0  # points of score; a score below the target by no more than this still reaches the target
# Points: at a score this close to the target, the search stops. This is less than the tolerance, because the score of a
# large picture has an error: only a sample is scored.
_CLOSE_ENOUGH = 0.5
_TOO_FAR = 0.6  # points: if the best score is farther from the target, a half step between two qualities is tried

_LIMIT_TRIES = 6  # most encodes to fit a byte limit; if none fits, the lowest quality is tried too
_FULL_ENOUGH = 0.95  # fraction of the byte limit: a file that is larger than this, and fits the limit, ends the search

_FILES_BYTES = 6.0  # bytes per pixel of all tried files together
_DECODING_BYTES = 28.0  # bytes per pixel to decode a tried file, for all formats of lossy encoders
_SCORING_BYTES = 700_000_000  # bytes of the scorer, for pictures of any size, because the scorer samples large pictures

ByteLimitName = Literal["max_bytes", "keep_smaller"]


@dataclass(frozen=True)
class ByteLimit:
    """The largest size of a file in bytes, and the parameter that sets it."""

    bytes: int
    parameter: ByteLimitName


class Lossy(EncodeParams):
    """Parameters of a lossy encoder: a quality, or goals that decide the quality."""

    quality: int = Field(ge=1, le=100, title="Quality", description="higher values look better, but the file is larger")
    target: float | None = Field(
        None,
        ge=30,
        le=95,
        title="Target",
        description="SSIMULACRA2 score to reach, instead of a quality; 70 is high quality, "
        "and at 85 the result is hard to distinguish from the source",
    )
    max_bytes: int | None = Field(
        None,
        ge=1,
        title="Maximum bytes",
        description="lower the quality until the file is no larger than this",
        json_schema_extra=ADVANCED,
    )
    keep_smaller: bool = Field(
        default=False,
        title="Keep smaller",
        description="lower the quality until the file is no larger than the source",
        json_schema_extra=ADVANCED,
    )

    @model_validator(mode="after")
    def _check_quality_or_target(self) -> Lossy:
        if self.target is not None and "quality" in self.model_fields_set:
            raise ValueError("leave out `quality` or `target`: the target decides the quality")
        return self

    def identity(self) -> dict[str, Any]:
        """Return the values that decide the result. With a target, the version of the scorer is added."""
        return super().identity() | ({} if self.target is None else {"scorer": SCORER})

    @property
    def has_goal(self) -> bool:
        """Whether the encoder has to search for the quality."""
        return self.target is not None or self.has_byte_limit

    @property
    def has_byte_limit(self) -> bool:
        """Whether the size of the file is limited."""
        return self.max_bytes is not None or self.keep_smaller

    def byte_limit(self, source_bytes: int) -> ByteLimit | None:
        """Return the lower of the limits that are set, or None. `source_bytes` is the size of the source file."""
        limits = [ByteLimit(self.max_bytes, "max_bytes")] if self.max_bytes is not None else []
        limits += [ByteLimit(source_bytes, "keep_smaller")] if self.keep_smaller else []
        return min(limits, key=lambda limit: (limit.bytes, limit.parameter), default=None)

    def cost_of(self, single: float) -> float:
        """Return the cost with goals if one encode costs `single`. Both costs are in milliseconds per megapixel."""
        encodes, scoring = 1.0, 0.0
        if self.target is not None:
            encodes, scoring = 4.0, 4_000.0
        if self.has_byte_limit:
            encodes += 3.0
        return single * encodes + scoring

    def memory_of(self, single: Memory) -> Memory:
        """Return the peak memory with goals if one encode takes `single`. All tried files stay in memory."""
        if not self.has_goal:
            return single
        if self.target is None:
            return replace(single, per_pixel=single.per_pixel + _FILES_BYTES)
        largest = max(single.per_pixel, _DECODING_BYTES)
        return replace(single, per_pixel=largest + _FILES_BYTES, constant=single.constant + _SCORING_BYTES)


L = TypeVar("L", bound=Lossy)


@dataclass(frozen=True, kw_only=True)
class LossyEncoder(Encoder[L]):
    """An encoder with a quality setting. The encoder can also search for the quality that reaches given goals."""

    scores: Curve
    """The score of an ordinary photo at each quality."""

    sizes: Curve
    """The natural logarithm of the file size of an ordinary photo at each quality. Only differences have a meaning."""

    half_step: Callable[[Picture, L], bytes] | None = None
    """Encodes a prepared picture with a score between the scores of `params.quality` and the next higher quality.

    This function is for codecs whose neighbouring qualities can differ by more than a point of score.
    """

    def encode(self, picture: Picture, params: L, source_bytes: int) -> Encoded:
        """Prepare and encode a picture. `source_bytes` is the size of the source file.

        With goals, `Encoded.result` contains the quality that was found. With a target, it also contains the score.

        Raises UnencodableImage if the format cannot store the picture, and MemoryError. Raises GoalOutOfReach if the
        file exceeds the byte limit even at the lowest quality.
        """
        prepared = self.prepare(picture, params)
        if not params.has_goal:
            return Encoded(self.run(prepared, params), prepared)
        return _encode_with_goals(self, prepared, params, params.byte_limit(source_bytes))


def _encode_with_goals(encoder: LossyEncoder[L], picture: Picture, params: L, limit: ByteLimit | None) -> Encoded:
    """Find the quality for a prepared picture. A byte limit takes precedence over a target."""
    candidates = _Candidates(encoder, params, picture)
    wanted = params.quality if params.target is None else candidates.nearest(params.target)
    quality = wanted if limit is None else candidates.best_within(limit, wanted)
    result: dict[str, Any] = {"quality": quality}
    if limit is not None and quality < wanted:
        result["lowered_for"] = limit.parameter
    if params.target is not None:
        score = candidates.score(quality)
        # Some codecs cannot reach a high target on some pictures. For example, JPEG with 4:2:0 stays below 95. Return
        # the best file then, because users would ask for this file after an error. `reached` is false in this case.
        result |= {"score": round(score, 1), "target": params.target, "reached": score >= params.target - _TOLERANCE}
    return Encoded(candidates.file(quality), picture, result | {"encodes": len(candidates.files)})


@dataclass
class _Candidates:
    """The files of one prepared picture at different qualities. Each file is encoded and scored at most once.

    The keys of `files` and `scores` are qualities from 1 to 100. A half quality, such as 72.5, stands for the
    `half_step` of the encoder.
    """

    encoder: LossyEncoder[Any]
    params: Lossy
    picture: Picture
    files: dict[float, bytes] = field(default_factory=dict)
    scores: dict[float, float] = field(default_factory=dict)
    reference: Reference | None = None

    def file(self, quality: float) -> bytes:
        if quality not in self.files:
            whole = math.floor(quality)
            encode = self.encoder.run if quality == whole else self.encoder.half_step
            assert encode is not None  # noqa: S101 (only `nearest` asks for half steps, after a check)
            self.files[quality] = encode(self.picture, self.params.model_copy(update={"quality": whole}))
        return self.files[quality]

    def score(self, quality: float) -> float:
        if quality not in self.scores:
            from pixtools.imaging.score import Reference  # noqa: PLC0415 (to import scipy takes two seconds)

            self.reference = self.reference or Reference(self.picture)
            self.scores[quality] = self.reference.score(decode(self.file(quality)))
        return self.scores[quality]

    def nearest(self, target: float) -> float:
        """Return the tried quality whose score is nearest to `target`.

        If tried qualities reach the target within the tolerance, choose only among these qualities.
        """

        def distance(quality: float) -> float:
            return abs(self.scores[quality] - target)

        accept = (target - _CLOSE_ENOUGH, target + _CLOSE_ENOUGH)
        search(self.score, self.encoder.scores, accept, self.scores, _TARGET_TRIES)
        below = [quality for quality, score in self.scores.items() if score < target and quality < HIGHEST]
        missed = distance(min(self.scores, key=distance)) > _TOO_FAR
        if missed and below and self.encoder.half_step and len(self.scores) < _TARGET_TRIES:
            self.score(max(below) + 0.5)
        reached = [quality for quality in self.scores if self.scores[quality] >= target - _TOLERANCE]
        return min(reached or self.scores, key=distance)

    def best_within(self, limit: ByteLimit, highest: float) -> float:
        """Return the best tried quality up to `highest` whose file fits `limit`. Raises GoalOutOfReach if none fits."""
        if len(self.file(highest)) <= limit.bytes:
            return highest
        sizes = {quality: math.log(len(data)) for quality, data in self.files.items() if quality <= highest}
        accept = (math.log(limit.bytes * _FULL_ENOUGH), math.log(limit.bytes))
        search(
            lambda quality: math.log(len(self.file(quality))), self.encoder.sizes, accept, sizes, _LIMIT_TRIES, highest
        )
        fitting = [quality for quality in sizes if len(self.file(quality)) <= limit.bytes]
        if fitting:
            return max(fitting)
        if len(self.file(LOWEST)) > limit.bytes:
            raise GoalOutOfReach(_too_large(self.encoder.title, len(self.file(LOWEST)), limit))
        return LOWEST


def _too_large(title: str, smallest: int, limit: ByteLimit) -> str:
    allowed = (
        f"`max_bytes` allows {limit.bytes:,}" if limit.parameter == "max_bytes" else f"the source has {limit.bytes:,}"
    )
    return (
        f"At its lowest quality, the {title} has {smallest:,} bytes, but {allowed}. "
        "Resize the picture, or allow more bytes."
    )
