"""What an operation is: the one place that says what a step of its kind reads, makes and accepts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import IO, Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pixtools.imaging import Picture, fit_inside, resize


class Kind(StrEnum):
    """What passes along an edge of a plan. The source is both; an encoded artifact is a file and no pixels."""

    PIXELS = "pixels"
    FILE = "file"


class Params(BaseModel):
    """Parameters of an operation: strict, closed, immutable. What does not fit is refused, never adjusted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def given(self) -> dict[str, Any]:
        """Return what differs from the defaults, as plain data: the form that is stored and shown."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def identity(self) -> dict[str, Any]:
        """Return what of it decides the result, for step keys."""
        return self.given()


Side = Annotated[int, Field(ge=1, le=16_384)]


class Box(Params):
    """A size to fit inside, in pixels: the shape is kept and nothing is enlarged."""

    model_config = ConfigDict(json_schema_extra={"anyOf": [{"required": ["width"]}, {"required": ["height"]}]})

    width: Side | None = Field(None, title="Width", description="at most this many pixels wide")
    height: Side | None = Field(None, title="Height", description="at most this many pixels high")

    @model_validator(mode="after")
    def _has_a_side(self) -> Box:
        if self.width is None and self.height is None:
            raise ValueError("give a width, a height or both")
        return self

    def apply(self, picture: Picture) -> Picture:
        return resize(picture, fit_inside(picture.image.size, self.width, self.height))


class EncodeParams(Params):
    resize: Box | None = Field(None, title="Resize", description="fit inside this size first")


class TransformParams(Params):
    keep: bool = Field(
        default=False,
        title="Keep",
        description="leave a lossless PNG even where other steps use the pixels",
    )

    def identity(self) -> dict[str, Any]:
        return {name: value for name, value in self.given().items() if name != "keep"}


P = TypeVar("P", bound=Params)


@dataclass(frozen=True)
class Entry:
    """One file of a bundle: its name, and how to open its bytes for reading."""

    name: str
    open: Callable[[], AbstractContextManager[IO[bytes]]]


@dataclass(frozen=True, kw_only=True)
class Operation(Generic[P]):
    """A kind of work. `version` counts changes of what it makes from the same input: it is part of step keys."""

    name: str
    title: str
    summary: str
    version: int
    params: type[P]
    reads: Kind
    makes: Kind
    media_type: str
    extension: str
    max_inputs: int | None = 1

    def __reduce__(self) -> tuple[Callable[[str], Any], tuple[str]]:
        # Travels by name, so that a plan sent to another process stays small.
        from pixtools.operations import get  # noqa: PLC0415 (the registry imports the operations)

        return get, (self.name,)


E = TypeVar("E", bound=EncodeParams)


@dataclass(frozen=True, kw_only=True)
class Encoder(Operation[E]):
    """Pixels to a file; they have been resized when `run` gets them."""

    run: Callable[[Picture, E], bytes]
    cost: Callable[[E], float]  # about milliseconds a megapixel on one core; only the ratios matter
    reads: Kind = Kind.PIXELS
    makes: Kind = Kind.FILE


@dataclass(frozen=True, kw_only=True)
class Transform(Operation[P]):
    """Pixels to pixels; what it leaves, where it leaves a file at all, is a lossless PNG."""

    run: Callable[[Picture, P], Picture]
    cost: Callable[[P], float]  # as an encoder's
    reads: Kind = Kind.PIXELS
    makes: Kind = Kind.PIXELS
    media_type: str = "image/png"
    extension: str = "png"


@dataclass(frozen=True, kw_only=True)
class Inspector(Operation[P]):
    """A file to facts about it, answered inline and left as a JSON file."""

    run: Callable[[bytes, P], dict[str, Any]]
    reads: Kind = Kind.FILE
    makes: Kind = Kind.FILE
    media_type: str = "application/json"
    extension: str = "json"


@dataclass(frozen=True, kw_only=True)
class Bundler(Operation[P]):
    """Files to one file, written to a seekable output; never more than one entry in memory."""

    run: Callable[[Iterable[Entry], IO[bytes], P], None]
    reads: Kind = Kind.FILE
    makes: Kind = Kind.FILE
    max_inputs: int | None = None


AnyOperation = Encoder[Any] | Transform[Any] | Inspector[Any] | Bundler[Any]
