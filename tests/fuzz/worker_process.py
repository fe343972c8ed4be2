"""Processes that read damaged files. One does the work of the ingress, and another does the work of a converter."""

from __future__ import annotations

import io
import traceback
from collections.abc import Callable
from enum import StrEnum
from functools import partial

from replaced_process import ProcessDied, ProcessHung, ReplacedProcess

from pixtools import memory
from pixtools.errors import CorruptImage, ImageTooLarge, OutOfMemory, UnencodableImage, UnsupportedType
from pixtools.imaging.decoding import decode
from pixtools.imaging.header import inspect
from pixtools.limits import Limits
from pixtools.operations import OPERATIONS
from pixtools.operations.base.params import UnsuitableParameter

LIMITS = Limits(pixels=4_000_000, side=16_384, frames=100)  # lower than in the service, to run more cases in the time
MEMORY_BYTES = 600_000_000
ENCODERS = ("jpg", "png", "webp", "avif")


class Result(StrEnum):
    """The result of processing one file."""

    PICTURE = "a picture"
    REFUSED = "refused"  # the function raised an error of PixTools, such as CorruptImage
    OUT_OF_MEMORY = "out of memory"  # a converter continues after this, so only the ingress is harmed
    CRASHED = "crashed"  # the process died
    HUNG = "past its deadline"
    UNEXPECTED = "unexpected exception"


Answer = tuple[Result, str]
"""The result and its details."""


class WorkerProcess:
    """A process that runs one function on many files. If the process dies or misses its deadline, it is replaced."""

    def __init__(self, function: Callable[[bytes, str], None], deadline_s: float) -> None:
        self._process = ReplacedProcess(partial(_answer, function), deadline_s, partial(memory.limit, MEMORY_BYTES))

    def run(self, data: bytes, encoder: str) -> Answer:
        """Run the function on a file in the process, and return the result."""
        try:
            answer: Answer = self._process.ask((data, encoder))
        except ProcessHung as error:
            return Result.HUNG, str(error)
        except ProcessDied as error:
            return Result.CRASHED, f"exit code {error}"
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.close()


def _answer(function: Callable[[bytes, str], None], file: tuple[bytes, str]) -> Answer:
    try:
        function(*file)
    except (CorruptImage, UnsupportedType, ImageTooLarge, UnencodableImage, UnsuitableParameter) as error:
        return Result.REFUSED, str(error)
    except (MemoryError, OutOfMemory) as error:
        return Result.OUT_OF_MEMORY, str(error)
    except BaseException:  # noqa: BLE001 (every other exception is a bug)
        return Result.UNEXPECTED, traceback.format_exc()
    return Result.PICTURE, ""


def inspect_upload(data: bytes, encoder: str) -> None:  # noqa: ARG001 (the signature that WorkerProcess calls)
    """Inspect a file as the ingress does."""
    inspect(io.BytesIO(data), LIMITS)


def convert(data: bytes, encoder: str) -> None:
    """Decode a file, encode it and read its metadata, as a converter does."""
    operation = OPERATIONS[encoder]
    if encoder == "jpg":
        decode(data, (20, 20))  # also runs the code that decodes at a reduced size
    picture = decode(data)
    operation.encode(picture, operation.params(), len(data))
    metadata = OPERATIONS["metadata"]
    metadata.run(data, metadata.params())
