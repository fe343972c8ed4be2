"""The messages that a sandboxed worker sends to its converter while it runs a work item.

A hostile picture may control the worker. So the messages are JSON, the converter checks each of them, and
pickled objects travel only from the converter to the worker. The order is:

    Get        The converter answers with None or an error. After None, it sends the bytes of the blob.
    Put        The bytes of the file follow. The converter stores the file, and answers with None or an error.
    Made       The step succeeded. If the step leaves a file, a Put of this step came before.
    NotMade    The step failed.
    HeadReady  The head's pixels are decoded.
    Pixels     The bytes of a picture follow, for another process. The converter answers with None.
    End        The work item is done.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, NonNegativeInt, TypeAdapter

from pixtools.imaging.picture import Metadata, Picture


@dataclass(frozen=True)
class GivenPixels:
    """The first picture of a PixelsWork. The converter sends this object, and then the bytes of the pixels.

    `description` is the second value of Picture.share. `result` is set if the pixels come from the denoiser.
    """

    shape: tuple[int, ...]
    dtype: str
    description: Picture
    result: dict[str, Any] | None


_MAX_RESULT_BYTES = 8 << 20
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")  # in JSON


def _storable(result: dict[str, Any] | None) -> dict[str, Any] | None:
    """Check that Postgres can store a result: without NaN and NUL, and of a reasonable size."""
    if result is not None:
        text = json.dumps(result, ensure_ascii=False, allow_nan=False)
        if len(text) > _MAX_RESULT_BYTES or _NUL.search(text):
            raise ValueError("the result cannot be stored")
    return result


Side = Annotated[int, Field(ge=1, lt=2**31)]
Milliseconds = Annotated[int, Field(ge=0, lt=2**31)]


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_bytes="base64", val_json_bytes="base64")


class Get(_Message):
    """The worker needs the blob with this key."""

    kind: Literal["get"] = "get"
    key: str


class Put(_Message):
    """The file of a step has `bytes` bytes. `width` and `height` are None if the file is no picture."""

    kind: Literal["put"] = "put"
    step: str
    bytes: NonNegativeInt
    width: Side | None
    height: Side | None
    result: Annotated[dict[str, Any] | None, AfterValidator(_storable)]


class Made(_Message):
    """A step succeeded."""

    kind: Literal["made"] = "made"
    step: str
    run_ms: Milliseconds


class NotMade(_Message):
    """A step failed with the error whose class has this code."""

    kind: Literal["not made"] = "not made"
    step: str
    run_ms: Milliseconds
    code: str
    detail: str
    faults: list[tuple[str, str]]  # pointer and detail of each fault


class HeadReady(_Message):
    """The head's pixels are decoded."""

    kind: Literal["head ready"] = "head ready"


class Pixels(_Message):
    """The picture of `step`, as Picture.share returns it. If `inference` is set, the picture is for this inference."""

    kind: Literal["pixels"] = "pixels"
    step: str
    inference: str | None
    shape: tuple[Side, Side, Side, Annotated[int, Field(ge=1, le=4)]]  # frames, H, W, channels
    dtype: Literal["uint8", "uint16"]
    icc: bytes | None
    exif: bytes
    xmp: bytes
    iptc: bytes
    durations: tuple[int, ...]
    loops: int
    reduced_from: tuple[Side, Side] | None

    @classmethod
    def of(cls, step: str, inference: str | None, pixels: Any, description: Picture) -> Pixels:
        """Return the message for the two values of Picture.share."""
        return cls(
            step=step,
            inference=inference,
            shape=pixels.shape,
            dtype=pixels.dtype.name,
            icc=description.icc,
            **vars(description.metadata),
            durations=description.durations,
            loops=description.loops,
            reduced_from=description.reduced_from,
        )

    def description(self) -> Picture:
        """Return the second value of Picture.share."""
        return Picture(
            (),
            self.icc,
            Metadata(self.exif, self.xmp, self.iptc),
            self.durations,
            self.loops,
            self.reduced_from,
        )


class End(_Message):
    """The work item is done."""

    kind: Literal["end"] = "end"


WorkerMessage = Get | Put | Made | NotMade | HeadReady | Pixels | End

WORKER_MESSAGE: TypeAdapter[WorkerMessage] = TypeAdapter(Annotated[WorkerMessage, Field(discriminator="kind")])
"""Reads a message from JSON."""

CHUNK_BYTES = 1 << 20
"""A worker sends a file in pieces of this size. The last piece may be smaller."""
