"""The kinds of operation. The kind decides which data a step reads and makes, and which functions an operation has.

| kind | reads | makes | example |
| --- | --- | --- | --- |
| `Encoder`, `LossyEncoder` (goals.py) | pixels | a file | webp |
| `Transform` | pixels | pixels | resize |
| `Composite` | pixels and parts of the request | pixels | watermark |
| `Inference` | pixels | pixels, with a neural network | denoise |
| `Inspector` | a file | values | metadata |
| `Bundler` | files | a file | zip |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import IO, Any, Generic, TypeVar

from pixtools.imaging.memory_bounds import Memory
from pixtools.imaging.picture import Picture
from pixtools.operations.base.encode_params import EncodeParams
from pixtools.operations.base.params import Params, PixelParams
from pixtools.operations.base.preparation import prepare


class DataKind(StrEnum):
    """The data that a step reads or makes. The source can be read as both kinds."""

    PIXELS = "pixels"  # decoded pixels, a `Picture`
    FILE = "file"  # an encoded file


P = TypeVar("P", bound=Params)


@dataclass(frozen=True, kw_only=True)
class Operation(Generic[P]):
    """What all kinds of operation have in common.

    Increase `version` when a change of the code changes the result for the same input. The step key contains `version`,
    so older artifacts are not reused.
    """

    name: str
    title: str
    summary: str
    version: int
    params: type[P]
    reads: DataKind
    makes: DataKind
    media_type: str  # of the file that a step leaves
    extension: str  # of the file that a step leaves, without the dot
    max_inputs: int | None = 1  # None: any number

    def __reduce__(self) -> tuple[Callable[[str], Any], tuple[str]]:
        """Pickle only the name, so that a plan is small when it is sent to another process."""
        from pixtools.operations import get  # noqa: PLC0415 (the registry imports this module)

        return get, (self.name,)


@dataclass(frozen=True)
class Encoded:
    """An encoded file, and the prepared picture that was encoded.

    `result` contains values that are known only after the encoding, such as the quality that a search found. These
    values become the result of the step.
    """

    data: bytes
    picture: Picture
    result: dict[str, Any] | None = None


E = TypeVar("E", bound=EncodeParams)


@dataclass(frozen=True, kw_only=True)
class Encoder(Operation[E]):
    """Makes a file from pixels."""

    preparation: tuple[Callable[[Picture, E], Picture], ...]
    """The functions that prepare a picture, in order. See preparation.py."""

    run: Callable[[Picture, E], bytes]
    """Encodes a prepared picture."""

    cost: Callable[[E], float]
    """Rough CPU time of one encode in milliseconds per megapixel. `dag/segments.py` uses it to divide the plan."""

    memory: Callable[[E], Memory]
    """Peak memory with the encoded file, but without the prepared picture."""

    reads: DataKind = DataKind.PIXELS
    makes: DataKind = DataKind.FILE

    def prepare(self, picture: Picture, params: E) -> Picture:
        """Return the prepared picture, which will be encoded."""
        return prepare(picture, params, self.preparation)

    def encode(self, picture: Picture, params: E, source_bytes: int) -> Encoded:  # noqa: ARG002 (LossyEncoder uses it)
        """Prepare and encode a picture. `source_bytes` is the size of the source file.

        Raises UnencodableImage if the format cannot store the picture, and MemoryError.
        """
        prepared = self.prepare(picture, params)
        return Encoded(self.run(prepared, params), prepared)


T = TypeVar("T", bound=PixelParams)


@dataclass(frozen=True, kw_only=True)
class PixelOperation(Operation[T]):
    """Makes pixels from pixels. If a step leaves a file, the file is a lossless PNG."""

    cost: Callable[[T], float]
    """Rough CPU time in milliseconds per megapixel. `dag/segments.py` uses it to divide the plan."""

    memory: Callable[[T], Memory]
    """Peak memory with the result, but without the input picture.

    The number of pixels is that of the input or of the result, whichever is larger.
    """

    reads: DataKind = DataKind.PIXELS
    makes: DataKind = DataKind.PIXELS
    media_type: str = "image/png"
    extension: str = "png"


@dataclass(frozen=True, kw_only=True)
class Transform(PixelOperation[T]):
    """Changes pixels. The result depends only on the pixels and the parameters."""

    run: Callable[[Picture, T], Picture]


Parts = Mapping[str, bytes]
"""The bytes of each part of the request, by name. A part is a further file of the request, such as a logo."""


@dataclass(frozen=True, kw_only=True)
class Composite(PixelOperation[T]):
    """Changes pixels with the help of parts of the request."""

    run: Callable[[Picture, T, Parts], Picture]

    parts: Callable[[T], Mapping[str, str]]
    """Returns the parts that are needed: for each parameter that refers to a part, the name of this part."""


@dataclass(frozen=True, kw_only=True)
class Inference(PixelOperation[T]):
    """Changes pixels with a neural network, which runs in a separate deployment.

    A step always leaves its PNG, because the result is expensive to make again. `cost` and `memory` describe only what
    the converter does: it sends the pixels to the network and encodes the PNG of the result.
    """

    weights: Callable[[T, str], str]
    """Returns the digest of the weights. The arguments are the parameters, and the digest of the weights for photos."""


@dataclass(frozen=True, kw_only=True)
class Inspector(Operation[P]):
    """Reads values from a file. The step returns the values as its result, and leaves a JSON file with them."""

    run: Callable[[bytes, P], dict[str, Any]]
    reads: DataKind = DataKind.FILE
    makes: DataKind = DataKind.FILE
    media_type: str = "application/json"
    extension: str = "json"


@dataclass(frozen=True)
class BundleEntry:
    """One file of a bundle: its name in the bundle, and a function that opens its bytes for reading."""

    name: str
    open: Callable[[], AbstractContextManager[IO[bytes]]]


@dataclass(frozen=True, kw_only=True)
class Bundler(Operation[P]):
    """Writes several files into one file."""

    run: Callable[[Iterable[BundleEntry], IO[bytes], P], None]
    """Writes the entries to a seekable output. Opens one entry at a time and copies its bytes in blocks."""

    reads: DataKind = DataKind.FILE
    makes: DataKind = DataKind.FILE
    max_inputs: int | None = None


AnyOperation = Encoder[Any] | Transform[Any] | Composite[Any] | Inference[Any] | Inspector[Any] | Bundler[Any]
