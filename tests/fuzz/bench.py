"""Two processes that a damaged file is given to: one does what the ingress does with it, one what a converter does."""

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
from pixtools.imaging.header import Limits, inspect
from pixtools.operations import OPERATIONS
from pixtools.operations.base.kinds import Misfit

LIMITS = Limits(pixels=4_000_000, side=16_384, frames=100)  # smaller than the service's: more cases in the time
MEMORY_BYTES = 600_000_000
ENCODERS = ("jpg", "png", "webp", "avif")


class Fate(StrEnum):
    """What came of a file in one of the processes."""

    PICTURE = "a picture"
    REFUSED = "refused"  # by an error of ours that says so
    OUT_OF_MEMORY = "out of memory"  # a converter survives it
    CRASHED = "crashed"  # the process is gone
    HUNG = "past its deadline"
    WRONG = "wrong"  # an exception that nobody expects


Answer = tuple[Fate, str]


class Bench:
    """A process for one of the jobs below, replaced when it dies or does not answer."""

    def __init__(self, job: Callable[[bytes, str], None], deadline_s: float) -> None:
        self._job = job
        self._deadline_s = deadline_s
        self._ours: Connection
        self._process: BaseProcess
        self._start()

    def give(self, data: bytes, encoder: str) -> Answer:
        try:
            self._ours.send((data, encoder))
            if self._ours.poll(self._deadline_s):
                return self._ours.recv()
            answer = Fate.HUNG, f"no answer in {self._deadline_s:g} s"
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self._process.join(10)
            answer = Fate.CRASHED, f"exit code {self._process.exitcode}"
        self.close()
        self._start()
        return answer

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._job), daemon=True)
        self._process.start()
        theirs.close()
        assert self._ours.poll(60), "the process did not start"
        self._ours.recv()

    def close(self) -> None:
        self._process.kill()
        self._process.join()
        self._ours.close()


def _serve(ours: Connection, job: Callable[[bytes, str], None]) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # where codecs complain
    memory.limit(MEMORY_BYTES)
    ours.send("ready")
    while True:
        try:
            data, encoder = ours.recv()
        except EOFError:
            return
        ours.send(_answer(job, data, encoder))


def _answer(job: Callable[[bytes, str], None], data: bytes, encoder: str) -> Answer:
    try:
        job(data, encoder)
    except (CorruptImage, UnsupportedType, ImageTooLarge, UnencodableImage, Misfit) as error:
        return Fate.REFUSED, str(error)
    except (MemoryError, OutOfMemory) as error:
        return Fate.OUT_OF_MEMORY, str(error)
    except BaseException:  # noqa: BLE001 (whatever else it is, it is wrong)
        return Fate.WRONG, traceback.format_exc()
    return Fate.PICTURE, ""


def look(data: bytes, encoder: str) -> None:  # noqa: ARG001 (as `convert`)
    """Do what the ingress does, with its own process at stake."""
    inspect(io.BytesIO(data), LIMITS)


def convert(data: bytes, encoder: str) -> None:
    """Do what a converter does."""
    operation = OPERATIONS[encoder]
    if encoder == "jpg":
        decode(data, (20, 20))  # a JPEG comes out smaller by another way
    picture = decode(data)
    operation.encode(picture, operation.params(), len(data))
    metadata = OPERATIONS["metadata"]
    metadata.run(data, metadata.params())
