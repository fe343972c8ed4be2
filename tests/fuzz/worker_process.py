"""Processes for damaged files: one does the work of the ingress, another does the work of a converter."""

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

LIMITS = Limits(pixels=4_000_000, side=16_384, frames=100)  # lower than the service's, so more cases fit into the time
MEMORY_BYTES = 600_000_000
ENCODERS = ("jpg", "png", "webp", "avif")


class Result(StrEnum):
    """The result of processing one file."""

    PICTURE = "a picture"
    REFUSED = "refused"  # the function raised an error that names the fault of the file
    OUT_OF_MEMORY = "out of memory"  # a converter goes on after this
    CRASHED = "crashed"  # the process died
    HUNG = "past its deadline"
    UNEXPECTED = "unexpected exception"


Answer = tuple[Result, str]
"""The result and its details."""


class WorkerProcess:
    """A process that runs one of the functions below. It is replaced when it dies or misses its deadline."""

    def __init__(self, function: Callable[[bytes, str], None], deadline_s: float) -> None:
        self._function = function
        self._deadline_s = deadline_s
        self._connection: Connection
        self._process: BaseProcess
        self._start()

    def run(self, data: bytes, encoder: str) -> Answer:
        """Process a file in the process."""
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


def inspect_upload(data: bytes, encoder: str) -> None:  # noqa: ARG001 (the signature of all these functions)
    """Do the work of the ingress on a file."""
    inspect(io.BytesIO(data), LIMITS)


def convert(data: bytes, encoder: str) -> None:
    """Do the work of a converter on a file."""
    operation = OPERATIONS[encoder]
    if encoder == "jpg":
        decode(data, (20, 20))  # also runs the decoder's code for reduced sizes
    picture = decode(data)
    operation.encode(picture, operation.params(), len(data))
    metadata = OPERATIONS["metadata"]
    metadata.run(data, metadata.params())
