"""The sandboxed process of a converter. All pictures of the service are decoded, changed and encoded here.

A converter starts this process, sends work items and blobs, and stores the results. `dag.segment_run` runs the steps.
`dag.worker_messages` describes the messages to the converter.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable
from functools import partial
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from PIL import Image

from dag.messages import Inferred
from dag.plan import PlannedStep
from dag.segment_run import run
from dag.worker_messages import CHUNK_BYTES, End, Get, GivenPixels, Pixels, Put, WorkerMessage
from pixtools import logs, memory
from pixtools.imaging import text_rendering
from pixtools.imaging.picture import Picture, Size

_KEPT_BYTES = 64_000_000  # freed memory that the process keeps for the next work item

# Modules that Python, Pillow and our own code import only when they need them.
_LATER_IMPORTS = (
    *("_strptime", "copy", "mmap", "tempfile", "defusedxml.ElementTree"),
    *("PIL.ImageChops", "PIL.ImageCms", "PIL.ImageColor", "PIL.ImageFilter", "PIL.ImagePalette"),
    "pixtools.imaging.score",
)
# Python imports the code of an encoding at the first use. These occur in metadata of pictures.
_ENCODINGS = ("ascii", "latin-1", "utf-8", "utf-16-le", "utf-16-be")


def prepare() -> Callable[[Connection], None]:
    """Load everything that a step may need later, because the confined process cannot open files."""
    memory.keep_freed_blocks(_KEPT_BYTES)
    Image.init()  # imports the code of all formats
    for module in _LATER_IMPORTS:
        import_module(module)
    text_rendering.line_height(1)  # reads the font
    for encoding in _ENCODINGS:
        codecs.lookup(encoding)
    return partial(_work, memory.Gauge())


def _work(gauge: memory.Gauge, connection: Connection) -> None:
    idle_bytes = gauge.own_bytes()
    while True:
        try:
            work_item, given = connection.recv()
        except EOFError:  # the converter has ended
            return
        parent = _Parent(connection)
        logs.begin(work_item.inputs.ids or {})
        run(work_item, None if given is None else _receive(connection, given), parent)
        parent.tell(End())
        if gauge.own_bytes() > idle_bytes + _KEPT_BYTES:
            memory.trim()  # otherwise the process would keep more freed memory after each large work item


def _receive(connection: Connection, given: GivenPixels) -> Inferred | tuple[Any, Picture]:
    pixels = np.frombuffer(connection.recv_bytes(), given.dtype).reshape(given.shape)
    if given.result is None:
        return pixels, given.description
    return Inferred(pixels, given.description, given.result)


class _Parent:
    """The converter, as its worker sees it (`dag.segment_run.SegmentIO`)."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def tell(self, message: WorkerMessage) -> None:
        """Send a message."""
        self._connection.send_bytes(message.model_dump_json().encode())

    def get(self, key: str) -> bytes:
        """Return a blob. Raises ObjectMissing or StorageDown."""
        self.tell(Get(key=key))
        self._await_answer()
        return self._connection.recv_bytes()

    def put(self, step: PlannedStep, file: bytes, size: Size | None, result: dict[str, Any] | None) -> None:
        """Let the converter store the file of a step. Raises the errors of the blob store and of the disk."""
        width, height = size or (None, None)
        self.tell(Put(step=step.name, bytes=len(file), width=width, height=height, result=result))
        with memoryview(file) as content:
            for start in range(0, len(file), CHUNK_BYTES):
                self._connection.send_bytes(content[start : start + CHUNK_BYTES])
        self._await_answer()

    def share(self, step: str, inference: str | None, shared: tuple[Any, Picture]) -> None:
        """Hand a picture to another process."""
        pixels = np.ascontiguousarray(shared[0])
        self.tell(Pixels.of(step, inference, pixels, shared[1]))
        self._connection.send_bytes(pixels.reshape(-1).view(np.uint8).data)
        self._await_answer()

    def _await_answer(self) -> None:
        error = self._connection.recv()
        if error is not None:
            raise error
