"""The conversation of a converter with its worker.

The converter sends a work item, checks each message from the worker, and stores the files that the worker makes.
`dag.worker_messages` describes the messages.
"""

from __future__ import annotations

import logging
import math
import os
import tempfile
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import IO, Any, assert_never

import numpy as np

from dag.messages import ArtifactsWork, Decoded, FileWork, Inferred, PixelsReady, PixelsWork, SourceWork, WorkItem
from dag.plan import PlannedStep
from dag.segments import FileSegment, Segment, SourceSegment
from dag.worker_messages import (
    CHUNK_BYTES,
    WORKER_MESSAGE,
    End,
    Get,
    GivenPixels,
    HeadReady,
    Made,
    NotMade,
    Pixels,
    Put,
    WorkerMessage,
)
from pixtools import logs, tracing
from pixtools.blob_store import BlobStore, artifact_key
from pixtools.errors import DiskFull, Fault, PixToolsError, ResultsTooLarge, error_class, is_full
from pixtools.imaging.picture import Size
from pixtools.jobs.outcomes import Failed, Stored, Succeeded

log = logging.getLogger(__name__)

_DISK_FULL = "Make free space in the temporary folder of the node on which the converter runs, and redrive the step."
_SPOOLED_BYTES = 8 << 20  # a larger file is written to disk before it goes to object storage
_MAX_MESSAGE_BYTES = 32 << 20  # metadata of up to 1 MiB in each block, a profile, and the result of an inspector
_END_TIMEOUT_S = 10.0


class InvalidMessage(Exception):
    """A message of the worker that no step of its work item can cause."""


class WorkerConversation:
    """Runs one work item in the worker: sends the work item and its blobs, and stores the files that the worker makes.

    A hostile picture may control the worker. So the worker gets only the blobs of its work item. It decides neither the
    keys of new blobs nor whether an error counts as an outage.
    """

    def __init__(
        self, connection: Connection[Any, Any], blobs: BlobStore, work_item: WorkItem, max_pixel_bytes: int
    ) -> None:
        """The worker may hand over pictures of up to `max_pixel_bytes` bytes."""
        self._connection = connection
        self._max_pixel_bytes = max_pixel_bytes
        self._blobs = blobs
        self._work_item = work_item
        self._open = {step.name: step for step in work_item.segment.steps}  # steps without an outcome
        self._readable = _blob_keys(work_item)
        self._stored: dict[str, Stored] = {}  # by step
        self._expected = _hand_overs(work_item.segment)
        self._head_is_ready = False
        self._own_errors: dict[str, PixToolsError] = {}  # the errors that the worker got from here, by code

    def run(self, pixels: Any) -> Iterator[Any]:
        """Run the steps, and yield what `Converter.run` yields. Raises EOFError or OSError if the worker dies.

        Raises ValidationError and InvalidMessage for a message that no step of the work item can cause.
        """
        self._send_work_item(pixels)
        while not isinstance(message := self._next_message(), End):
            match message:
                case Get():
                    self._send_blob(message.key)
                case Put():
                    self._store(message)
                case Made():
                    yield self._success(message)
                case NotMade():
                    yield self._failure(message)
                case HeadReady():
                    self._note_head()
                    yield Decoded()
                case Pixels():
                    self._note_hand_over(message)
                    yield PixelsReady(message.step, message.inference)
                    yield self._receive_pixels(message), message.description()
                    self._connection.send(None)
                case _:
                    assert_never(message)

    def _send_work_item(self, pixels: Any) -> None:
        if pixels is None:
            self._connection.send((self._work_item, None))
            return
        result = pixels.result if isinstance(pixels, Inferred) else None
        array, description = (pixels.frames, pixels.rest) if isinstance(pixels, Inferred) else pixels
        self._connection.send((self._work_item, GivenPixels(array.shape, array.dtype.name, description, result)))
        self._connection.send_bytes(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)

    def _next_message(self) -> WorkerMessage:
        # When no step is open, only `End` is left. The next work item must not wait for a worker that does not send it.
        if not self._open and not self._connection.poll(_END_TIMEOUT_S):
            raise InvalidMessage("the worker does not end its work item")
        return WORKER_MESSAGE.validate_json(self._connection.recv_bytes(_MAX_MESSAGE_BYTES))

    def _answer(self, error: PixToolsError | None) -> None:
        if error is not None:
            self._own_errors[error.code] = error
        self._connection.send(error)

    def _send_blob(self, key: str) -> None:
        if key not in self._readable:
            raise InvalidMessage(f"the blob {key} does not belong to the work item")
        try:
            with tracing.begin("get blob", logs.ids().get("traceparent")):
                data = self._blobs.get(key)
        except PixToolsError as error:
            self._answer(error)
        else:
            self._answer(None)
            self._connection.send_bytes(data)

    def _store(self, message: Put) -> None:
        step = self._open_step(message.step)
        if not step.leaves_file or step.name in self._stored:
            raise InvalidMessage(f"the step {step.name} leaves no further file")
        size = (message.width, message.height) if message.width and message.height else None
        with tempfile.SpooledTemporaryFile(max_size=_SPOOLED_BYTES) as file:
            error = self._receive_file(message.bytes, file)
            if error is None:
                try:
                    self._stored[step.name] = put_file(
                        self._blobs, self._work_item, step, file, self._bytes_left(), size=size, result=message.result
                    )
                except PixToolsError as failure:
                    error = failure
        self._answer(error)

    def _bytes_left(self) -> int:
        return self._work_item.inputs.bytes_left - sum(stored.bytes for stored in self._stored.values())

    def _receive_file(self, size: int, file: IO[bytes]) -> PixToolsError | None:
        """Write the next `size` bytes from the worker to `file`. Return the error if that is not possible.

        After an error, read the rest of the file all the same, because messages follow it.
        """
        error: PixToolsError | None = too_large(size, self._bytes_left())
        while size > 0:
            chunk = self._connection.recv_bytes(CHUNK_BYTES)
            if not chunk:
                raise InvalidMessage("a piece of a file is empty")
            size -= len(chunk)
            try:
                if error is None:
                    file.write(chunk)
            except OSError as failure:
                log.warning("cannot write a temporary file: %s", failure)
                error = disk_error(failure)
        return error

    def _note_head(self) -> None:
        if self._head_is_ready or not isinstance(self._work_item, SourceWork | FileWork):
            raise InvalidMessage("the head of the segment is not decoded here, or it was ready before")
        self._head_is_ready = True

    def _note_hand_over(self, message: Pixels) -> None:
        if (message.step, message.inference) not in self._expected:
            raise InvalidMessage(f"the segment does not hand over {message.step} for {message.inference} now")
        self._expected.remove((message.step, message.inference))
        if message.inference is not None:
            del self._open[message.inference]  # the denoiser reports its outcome

    def _receive_pixels(self, message: Pixels) -> Any:
        size = math.prod(message.shape) * np.dtype(message.dtype).itemsize
        if size > self._max_pixel_bytes:
            raise InvalidMessage(f"a picture of {size} bytes is too large")
        data = self._connection.recv_bytes(size)
        if len(data) != size:
            raise InvalidMessage(f"a picture has {len(data)} bytes instead of {size}")
        return np.frombuffer(data, message.dtype).reshape(message.shape)

    def _open_step(self, name: str) -> PlannedStep:
        if name not in self._open:
            raise InvalidMessage(f"the step {name} is not open in the segment")
        return self._open[name]

    def _success(self, message: Made) -> Succeeded:
        step, stored = self._open_step(message.step), self._stored.get(message.step)
        if step.leaves_file and stored is None:
            raise InvalidMessage(f"the step {message.step} left no file")
        del self._open[message.step]
        _trace(step, message.run_ms)
        return Succeeded(message.step, stored, message.run_ms)

    def _failure(self, message: NotMade) -> Failed:
        step = self._open_step(message.step)
        del self._open[message.step]
        error = self._error(message)
        _trace(step, message.run_ms, **{"error.type": error.code})
        return Failed(message.step, error, message.run_ms)

    def _error(self, message: NotMade) -> PixToolsError:
        """Return the error of a failed step. The worker itself has no errors after which a step is tried again."""
        if message.code in self._own_errors:
            return self._own_errors[message.code]
        kind = error_class(message.code)
        if kind is None or kind.retryable or kind.outage:
            return PixToolsError()
        return kind(message.detail, tuple(Fault(pointer, detail) for pointer, detail in message.faults))


def _trace(step: PlannedStep, run_ms: int, **attributes: str) -> None:
    """Add a span for a step that has just ended in the worker, which cannot send spans itself."""
    tracing.past(
        "step", logs.ids().get("traceparent"), run_ms / 1000, step=step.name, op=step.operation.name, **attributes
    )


def _blob_keys(work_item: WorkItem) -> frozenset[str]:
    """Return the keys of the blobs that the worker may read."""
    inputs = work_item.inputs
    match work_item:
        case ArtifactsWork(files=files):
            keys = [file.blob_key for file in files]
        case FileWork(blob_key=key):
            keys = [key]
        case SourceWork() | PixelsWork():
            keys = []
        case _:
            assert_never(work_item)
    return frozenset([inputs.source_key, *inputs.parts.values(), *keys])


def _hand_overs(segment: Segment) -> set[tuple[str, str | None]]:
    """Return the pictures that a segment hands over: the step or head, and the inference that reads it, or None."""
    found: set[tuple[str, str | None]] = {
        (step.inputs[0], step.name) for step in segment.steps if segment.offloads(step)
    }
    if isinstance(segment, SourceSegment | FileSegment) and segment.shares_head:
        found.add((segment.head, None))
    return found


def put_file(
    blobs: BlobStore,
    work_item: WorkItem,
    step: PlannedStep,
    file: IO[bytes],
    bytes_left: int,
    *,
    size: Size | None = None,
    result: dict[str, Any] | None = None,
) -> Stored:
    """Put the file of a step into object storage before any row of the database refers to the file.

    Raises ResultsTooLarge if the file has more than `bytes_left` bytes, which is what the job may still store.
    """
    key = artifact_key(work_item.inputs.owner, step.key, step.operation.extension)
    length = file.seek(0, os.SEEK_END)
    if error := too_large(length, bytes_left):
        raise error
    file.seek(0)
    with tracing.begin("put artifact", logs.ids().get("traceparent"), step=step.name, bytes=length):
        sha256 = blobs.put(key, file, step.operation.media_type)
    width, height = size or (None, None)
    return Stored(step.key, key, step.operation.media_type, length, sha256, width, height, result)


def too_large(length: int, bytes_left: int) -> ResultsTooLarge | None:
    """Return an error if a file of `length` bytes does not fit into the `bytes_left` bytes of its job, else None."""
    if length <= bytes_left:
        return None
    return ResultsTooLarge(
        f"The file has {length:,} bytes, but the files of this job may take only {max(0, bytes_left):,} bytes more "
        "(PIXTOOLS_MAX_JOB_BYTES). Send a job with fewer steps, smaller pictures or a lower quality."
    )


def disk_error(error: OSError) -> PixToolsError:
    """Return the error of a step whose temporary file cannot be written."""
    return DiskFull(_DISK_FULL) if is_full(error) else PixToolsError()
