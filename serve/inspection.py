"""Reads the headers of uploaded files in a few sandboxed processes.

Opening a hostile file may take long, take much memory, or crash. So the ingress itself opens no picture.
"""

from __future__ import annotations

import asyncio
import logging
import mmap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import IO

from pydantic import ValidationError

from pixtools.errors import CorruptImage, PixToolsError, error_class
from pixtools.imaging.header import Header, check_size
from pixtools.imaging.header_worker import HeaderAnswer, ReadHeader, RefusedFile
from pixtools.limits import Limits
from pixtools.sandbox.process import ChildDied, SandboxedProcess

log = logging.getLogger(__name__)

_PROCESSES = 2
_WORKER = "pixtools.imaging.header_worker:prepare"
_MEMORY_BYTES = 128_000_000  # a file of 25 MB and its headers take less than half of this
_CPU_S = 3.0
_WALL_S = 30.0  # on a busy machine, a process may have to wait for its CPU time
_POLL_S = 0.2
_MAX_ANSWER_BYTES = 65_536


class Inspection:
    """Owns the processes that read headers.

    If a process dies or takes too long, it is replaced. Only the request whose file it was reading is refused.
    """

    def __init__(self, prepare: str = _WORKER) -> None:
        """`prepare` is the first function of the processes, as for SandboxedProcess."""
        self._prepare = prepare
        # Each thread owns one process. The threads live until `close`, because the kernel kills a sandboxed process
        # when the thread that started it ends.
        self._threads = ThreadPoolExecutor(_PROCESSES, thread_name_prefix="inspection")
        self._own = threading.local()
        self._processes: set[SandboxedProcess] = set()

    def start(self) -> None:
        """Start the processes, so that the first requests need not wait for them. Returns at once."""
        for _ in range(_PROCESSES):
            self._threads.submit(self._process)

    async def inspect(self, file: IO[bytes], limits: Limits) -> Header:
        """Return the header of an upload. `file` has a descriptor and is not empty.

        Raises UnsupportedType, ImageTooLarge and CorruptImage. CorruptImage also means that the file took too much
        time or memory, or that it killed the process.
        """
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._inspect, file, limits)

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.end()
        self._threads.shutdown()

    def _process(self) -> SandboxedProcess:
        """Return the process of this thread. Start it if there is none."""
        process: SandboxedProcess | None = getattr(self._own, "process", None)
        if process is None:
            process = self._own.process = SandboxedProcess(self._prepare, _MEMORY_BYTES)
            self._processes.add(process)
            process.wait_until_ready()
        return process

    def _end_process(self) -> None:
        process = self._own.process
        self._own.process = None
        self._processes.discard(process)
        process.end()

    def _inspect(self, file: IO[bytes], limits: Limits) -> Header:
        try:
            answer = _ask(self._process(), file, limits)
        except (ChildDied, ValidationError, EOFError, OSError) as error:
            log.warning("a process that reads headers was replaced: %s", error)
            self._end_process()
            raise CorruptImage(
                f"The header of the file could not be read within {_CPU_S:g} seconds, or reading it failed. "
                "Open the file in an image editor and export it again."
            ) from error
        if isinstance(answer, RefusedFile):
            kind = error_class(answer.code) or PixToolsError
            raise kind(answer.detail)
        # Check again, because a hostile file may have taken over the process.
        check_size((answer.width, answer.height), answer.frames, limits)
        return Header(answer.media_type, answer.width, answer.height, answer.frames)


def _ask(process: SandboxedProcess, file: IO[bytes], limits: Limits) -> ReadHeader | RefusedFile:
    """Send a file to a process and return its answer. Raises ChildDied if the process takes too long."""
    process.connection.send(limits)
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:  # the file may be large, so do not copy it
        process.connection.send_bytes(content)
    cpu_s, began = process.cpu_s(), time.monotonic()
    while not process.connection.poll(_POLL_S):
        if process.cpu_s() - cpu_s > _CPU_S or time.monotonic() - began > _WALL_S:
            raise ChildDied("it took too long")
    return HeaderAnswer.model_validate_json(process.connection.recv_bytes(_MAX_ANSWER_BYTES)).answer
