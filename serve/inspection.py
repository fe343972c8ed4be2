"""Reads the headers of uploaded files in a few sandboxed processes.

Opening a hostile file may take long, take much memory, or crash. So the ingress itself opens no picture.
"""

from __future__ import annotations

import asyncio
import errno
import heapq
import itertools
import logging
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO

from pydantic import ValidationError

from pixtools.errors import CorruptImage, DiskFull, Overloaded, is_full
from pixtools.imaging.header import Header, check_size
from pixtools.limits import Limits
from pixtools.sandbox import files
from pixtools.sandbox.header_worker import HeaderAnswer, ReadHeader, RefusedFile
from pixtools.sandbox.process import ChildDied, SandboxedProcess

log = logging.getLogger(__name__)

_PROCESSES = 2
_WORKER = "pixtools.sandbox.header_worker:prepare"
_MEMORY_BYTES = 128_000_000  # a file of 25 MB and its headers take less than half of this
_CPU_S = 3.0
_WALL_S = 30.0  # on a busy machine, a process may have to wait for its CPU time
_POLL_S = 0.2
_WATCH_S = 1.0
_NOT_STARTED = Overloaded("The process that reads headers did not start. Send the request again in a while.")
_MAX_ANSWER_BYTES = 65_536
# The task with the earliest `due` runs next: the time of arrival plus the size of the file divided by this speed. So
# small files overtake large files, but no file waits for ever.
_BYTES_PER_S = 10_000_000


@dataclass(order=True)
class _Task:
    due: float
    number: int
    file: IO[bytes] = field(compare=False)
    limits: Limits = field(compare=False)
    result: Future[Header] = field(compare=False, default_factory=Future)


class Inspection:
    """Owns the processes that read headers.

    If a process dies or takes too long, it is replaced. Only the request whose file it was reading is refused. The
    processes are not separated by owner: a file that controls a process also sees the later files of this process.
    """

    def __init__(self, prepare: str = _WORKER) -> None:
        """`prepare` is the first function of the processes, as for SandboxedProcess."""
        self._prepare = prepare
        # Each thread owns one process. The threads live until `close`, because the kernel kills a sandboxed process
        # when the thread that started it ends.
        self._threads = ThreadPoolExecutor(_PROCESSES, thread_name_prefix="inspection")
        self._own = threading.local()
        self._processes: set[SandboxedProcess] = set()
        self._tasks: list[_Task] = []  # a heap
        self._numbers = itertools.count()
        self._lock = threading.Lock()  # guards `_tasks`
        self._deadlines: dict[SandboxedProcess, float] = {}  # of the processes that read a header
        self._closed = threading.Event()
        threading.Thread(target=self._watch, name="inspection-watcher", daemon=True).start()

    def start(self) -> None:
        """Start the processes, so that the first requests need not wait for them. Returns at once."""
        for _ in range(_PROCESSES):
            self._threads.submit(self._process)  # if it fails, the first request tries again

    async def inspect(self, file: IO[bytes], limits: Limits) -> Header:
        """Return the header of an upload. `file` has a descriptor.

        Raises UnsupportedType, ImageTooLarge and CorruptImage. CorruptImage also means that the file took too much
        time or memory, or that it killed the process. Raises Overloaded if no process can be started, and DiskFull.
        """
        due = time.monotonic() + file.seek(0, os.SEEK_END) / _BYTES_PER_S
        task = _Task(due, next(self._numbers), file, limits)
        with self._lock:
            self._threads.submit(self._run_next)
            heapq.heappush(self._tasks, task)
        return await asyncio.wrap_future(task.result)

    def close(self) -> None:
        """End the processes. Waits until the threads have ended."""
        self._closed.set()
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.result.cancel()
        for process in list(self._processes):
            process.end()
        self._threads.shutdown()

    def _process(self) -> SandboxedProcess:
        """Return the process of this thread. Start it if there is none. Raises Overloaded if it does not start."""
        process: SandboxedProcess | None = getattr(self._own, "process", None)
        if process is not None and process.is_running:
            return process
        process = SandboxedProcess(self._prepare, _MEMORY_BYTES)
        self._processes.add(process)
        try:
            process.wait_until_ready()
        except ChildDied as error:
            log.exception("a process that reads headers did not start")
            self._end(process)
            raise _NOT_STARTED from error
        self._own.process = process
        return process

    def _end(self, process: SandboxedProcess) -> None:
        self._own.process = None
        self._processes.discard(process)
        process.end()

    def _run_next(self) -> None:
        with self._lock:
            if not self._tasks:  # `close` has taken them
                return
            task = heapq.heappop(self._tasks)
        if not task.result.set_running_or_notify_cancel():  # the client has gone
            return
        try:
            task.result.set_result(self._inspect(task.file, task.limits))
        except BaseException as error:  # noqa: BLE001 (the task raises it)
            task.result.set_exception(error)

    @contextmanager
    def _watched(self, process: SandboxedProcess) -> Iterator[None]:
        """Kill the process if the block takes longer than `_WALL_S`. Then reads and writes of the block fail."""
        self._deadlines[process] = time.monotonic() + _WALL_S
        try:
            yield
        finally:
            del self._deadlines[process]

    def _watch(self) -> None:
        # One thread watches all processes, because a timer for each file would start a thread for each file.
        while not self._closed.wait(_WATCH_S):
            now = time.monotonic()
            for process, deadline in list(self._deadlines.items()):
                if now > deadline:
                    process.kill()

    def _inspect(self, file: IO[bytes], limits: Limits) -> Header:
        process, descriptor = self._process(), _reopen(file)
        try:
            with self._watched(process):
                answer = _ask(process, descriptor, limits)
        except (ChildDied, ValidationError, EOFError, OSError) as error:
            log.warning("a process that reads headers was replaced: %r", error)
            self._end(process)
            raise CorruptImage(
                f"The header of the file could not be read within {_CPU_S:g} seconds, or reading it failed. "
                "Open the file in an image editor and export it again."
            ) from error
        finally:
            os.close(descriptor)
        if isinstance(answer, RefusedFile):
            raise answer.error()
        # Check again, because a hostile file may control the process.
        check_size((answer.width, answer.height), answer.frames, limits)
        return Header(answer.media_type, answer.width, answer.height, answer.frames)


def _reopen(file: IO[bytes]) -> int:
    """Return a descriptor for the sandboxed process. Raises DiskFull, and Overloaded if too many files are open."""
    try:
        return files.reopen(file)
    except OSError as error:
        if is_full(error):
            raise DiskFull("Send the request again in a while.") from error
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise Overloaded("Too many files are open. Send the request again in a while.") from error
        raise


def _ask(process: SandboxedProcess, descriptor: int, limits: Limits) -> ReadHeader | RefusedFile:
    """Send a file to a process and return its answer. Raises ChildDied if the process takes too much CPU time."""
    process.connection.send(limits)
    files.send(process.connection, descriptor)
    cpu_s = process.cpu_s()
    while not process.connection.poll(_POLL_S):
        if process.cpu_s() - cpu_s > _CPU_S:
            raise ChildDied("it took too long")
    return HeaderAnswer.model_validate_json(process.connection.recv_bytes(_MAX_ANSWER_BYTES)).answer
