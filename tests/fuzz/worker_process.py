"""Processes that read damaged files. One does the work of the ingress, and another does the work of a converter."""

from __future__ import annotations

import io
import multiprocessing
import os
import traceback
from collections.abc import Callable
from enum import StrEnum
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

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
        self._function = function
        self._deadline_s = deadline_s
        self._connection: Connection
        self._process: BaseProcess
        self._start()

    def run(self, data: bytes, encoder: str) -> Answer:
        """Run the function on a file in the process, and return the result."""
        try:
            self._connection.send((data, encoder))
            if self._connection.poll(self._deadline_s):
                return self._connection.recv()
            answer = Result.HUNG, f"no answer in {self._deadline_s:g} s"
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self._process.join(10)
            answer = Result.CRASHED, f"exit code {self._process.exitcode}"
        self.close()
        self._start()
        return answer

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, other_end = context.Pipe()
        self._process = context.Process(target=_serve, args=(other_end, self._function), daemon=True)
        self._process.start()
        other_end.close()
        assert self._connection.poll(60), "the process did not start"
        self._connection.recv()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()
        self._connection.close()


def _serve(connection: Connection, function: Callable[[bytes, str], None]) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # discards the messages that codecs write to stderr
    memory.limit(MEMORY_BYTES)
    connection.send("ready")
    while True:
        try:
            data, encoder = connection.recv()
        except EOFError:
            return
        connection.send(_answer(function, data, encoder))


def _answer(function: Callable[[bytes, str], None], data: bytes, encoder: str) -> Answer:
    try:
        function(data, encoder)
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
