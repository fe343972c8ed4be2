"""What an operation is: the one place that says what a step of its kind reads, makes and accepts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import IO, Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pixtools.imaging.color import to_srgb
from pixtools.imaging.geometry import Fit, Placement, place, put
from pixtools.imaging.memory_bounds import Memory
from pixtools.imaging.metadata_blocks import Strip, kept
from pixtools.imaging.picture import Picture, Size


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


class Misfit(ValueError):
    """Parameters that are sound by themselves do not suit the picture; `field` is the one to change."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


ADVANCED: dict[str, Any] = {"advanced": True}
"""Marks, in the schema, a parameter that few change: forms fold it away."""

Side = Annotated[int, Field(ge=1, le=16_384)]
Color = Annotated[str, Field(pattern="^#[0-9a-fA-F]{6}$", json_schema_extra={"format": "color"})]
PartName = Annotated[
    str, Field(pattern="^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$", json_schema_extra={"format": "part"})
]  # of a further file of the request


class Resizing(Params):
    """A size to resample to, in pixels."""

    model_config = ConfigDict(json_schema_extra={"anyOf": [{"required": ["width"]}, {"required": ["height"]}]})

    width: Side | None = Field(None, title="Width", description="pixels")
    height: Side | None = Field(None, title="Height", description="pixels")
    fit: Fit = Field(
        "inside",
        title="Fit",
        description="inside keeps the shape, contain adds margins, cover cuts off what goes beyond, fill stretches",
    )
    upscale: bool = Field(
        default=False, title="Upscale", description="enlarge what is smaller", json_schema_extra=ADVANCED
    )
    background: Color | None = Field(
        None,
        title="Background",
        description="of the margins that contain adds; without one they are transparent",
        json_schema_extra=ADVANCED,
    )

    @model_validator(mode="after")
    def _is_whole(self) -> Resizing:
        if self.width is None and self.height is None:
            raise ValueError("give a width, a height or both")
        if self.fit != "inside" and None in (self.width, self.height):
            raise ValueError(f"give a width and a height: {self.fit} needs both")
        if self.background is not None and self.fit != "contain":
            raise ValueError("background is for the margins of `contain`; leave it out")
        return self

    @property
    def adds_alpha(self) -> bool:
        return self.fit == "contain" and self.background is None

    def placement(self, size: Size) -> Placement:
        return place(size, self.width, self.height, self.fit, upscale=self.upscale)

    def apply(self, picture: Picture) -> Picture:
        return put(picture, self.placement(picture.drafted_from or picture.size), self.background)


class EncodeParams(Params):
    """What every encoder does to a picture before it writes it."""

    resize: Resizing | None = Field(None, title="Resize", description="to this size first")
    color: Literal["keep", "srgb"] = Field(
        "keep",
        title="Colour",
        description="keep writes the colour profile into the file; srgb converts to sRGB, which needs none",
        json_schema_extra=ADVANCED,
    )
    strip: Strip = Field(
        "gps",
        title="Strip",
        description="gps: leave out the place, serial numbers, XMP and IPTC; all: everything; "
        "none: only what the format cannot hold",
        json_schema_extra=ADVANCED,
    )

    @property
    def adds_alpha(self) -> bool:
        """Whether an opaque picture may have become a transparent one when it is written."""
        return self.resize is not None and self.resize.adds_alpha

    def size(self, size: Size) -> Size:
        return self.resize.placement(size).canvas if self.resize else size

    def enough(self, size: Size) -> Size:
        """Return the size to which a picture of `size` is scaled before all else: nobody needs much more of it."""
        return self.resize.placement(size).scaled if self.resize else size

    def frame_count(self, frames: int) -> int:
        """Return how many frames the file has of a picture of `frames`."""
        return frames

    def prepare(self, picture: Picture) -> Picture:
        """Return the picture as it is to be written."""
        picture = self.resize.apply(picture) if self.resize else picture
        picture = to_srgb(picture) if self.color == "srgb" else picture
        return replace(picture, notes=kept(picture.notes, self.strip, picture.size))


class AnimatedParams(EncodeParams):
    """Of an encoder whose format can hold an animation."""

    frames: Literal["all", "first"] = Field(
        "all",
        title="Frames",
        description="all keeps an animation one; first makes a still of it",
        json_schema_extra=ADVANCED,
    )

    def frame_count(self, frames: int) -> int:
        return frames if self.frames == "all" else 1

    def prepare(self, picture: Picture) -> Picture:
        return super().prepare(picture if self.frames == "all" else picture.first())


class PixelParams(Params):
    """What a change of pixels says of the picture that it makes."""

    @property
    def adds_alpha(self) -> bool:
        """Whether an opaque picture may become a transparent one."""
        return False

    def size(self, size: Size) -> Size:
        """Return the size of what is made from a picture of `size`; raises Misfit."""
        return size

    def enough(self, size: Size) -> Size:
        """Return the size to which a picture of `size` is scaled before all else: nobody needs much more of it."""
        return size


class TransformParams(PixelParams):
    keep: bool = Field(
        default=False,
        title="Keep",
        description="leave a lossless PNG even where other steps use the pixels",
        json_schema_extra=ADVANCED,
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


@dataclass(frozen=True)
class Encoded:
    """A finished file, and the picture that went into it."""

    data: bytes
    picture: Picture
    facts: dict[str, Any] | None = None  # how it came out, where that was not said beforehand


E = TypeVar("E", bound=EncodeParams)
T = TypeVar("T", bound=PixelParams)


@dataclass(frozen=True, kw_only=True)
class Encoder(Operation[E]):
    """Pixels to a file."""

    run: Callable[[Picture, E], bytes]  # of a picture that `prepare` has been over
    cost: Callable[[E], float]  # about milliseconds a megapixel on one core; only the ratios matter
    memory: Callable[[E], Memory]  # beside the picture, the file that it makes included
    reads: Kind = Kind.PIXELS
    makes: Kind = Kind.FILE

    def encode(self, picture: Picture, params: E, source_bytes: int) -> Encoded:  # noqa: ARG002
        """Make the file; `source_bytes` is what the source takes, for parameters that compare with it."""
        prepared = params.prepare(picture)
        return Encoded(self.run(prepared, params), prepared)


@dataclass(frozen=True, kw_only=True)
class PixelOperation(Operation[T]):
    """Pixels to pixels; what it leaves, where it leaves a file at all, is a lossless PNG."""

    cost: Callable[[T], float]  # as an encoder's
    # Beside the picture that it reads, the one that it makes included, for each pixel of the larger of the two.
    memory: Callable[[T], Memory]
    reads: Kind = Kind.PIXELS
    makes: Kind = Kind.PIXELS
    media_type: str = "image/png"
    extension: str = "png"


@dataclass(frozen=True, kw_only=True)
class Transform(PixelOperation[T]):
    """A change of pixels by themselves."""

    run: Callable[[Picture, T], Picture]


Parts = Mapping[str, bytes]
"""Files that came beside the image, by the name of their part of the request."""


@dataclass(frozen=True, kw_only=True)
class Composite(PixelOperation[T]):
    """A change of pixels that further files of the request take part in."""

    run: Callable[[Picture, T, Parts], Picture]
    parts: Callable[[T], Mapping[str, str]]  # the names of those that the parameters ask for, by field


@dataclass(frozen=True, kw_only=True)
class Inference(PixelOperation[T]):
    """A change of pixels by a network, in a deployment of its own; being dear, it always leaves its PNG.

    Its costs are those of what a converter does for it: hand the pixels on, and write the file of what comes back.
    """


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


AnyOperation = Encoder[Any] | Transform[Any] | Composite[Any] | Inference[Any] | Inspector[Any] | Bundler[Any]
