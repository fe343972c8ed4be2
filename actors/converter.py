"""The converter: lets a sandboxed worker run the steps of work items, and keeps their files in object storage.

The converter holds the credentials of object storage and the token of the Ray cluster, so it never decodes a picture
itself.
"""

from __future__ import annotations

import hashlib
import logging
import socket
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from typing import IO, Any, assert_never

import numpy as np
from pydantic import ValidationError

from actors.converter_pool import Node
from dag.messages import (
    ArtifactsWork,
    Decoded,
    FileWork,
    Inferred,
    PixelsReady,
    PixelsWork,
    SourceWork,
    WorkItem,
)
from dag.plan import PlannedStep
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
from pixtools import logs, memory
from pixtools.blob_store import BlobStore, artifact_key
from pixtools.errors import DiskFull, Fault, PixToolsError, ResultsTooLarge, error_class, is_full
from pixtools.imaging.picture import Size
from pixtools.jobs.outcomes import Failed, Started, Stored, Succeeded
from pixtools.operations.base.kinds import BundleEntry, Bundler
from pixtools.sandbox.process import ChildDied, SandboxedProcess
from pixtools.settings import Settings

log = logging.getLogger(__name__)

_DISK_FULL = "Make free space in the temporary folder of the node on which the converter runs, and redrive the step."
_SHARE_OF_NODE = 0.7  # idle processes, Ray's shared memory and other programs use the rest of the memory
_SPOOLED_BYTES = 8 << 20  # a larger file is written to disk before it goes to object storage

_MAX_MESSAGE_BYTES = 32 << 20  # metadata of up to 1 MiB in each block, a profile, and the result of an inspector
_WORKER = "dag.segment_worker:prepare"


class InvalidMessage(Exception):
    """A message of the worker that no step of its work item can cause."""


class Converter:
    """Owns a sandboxed worker and a connection to object storage.

    A converter runs one call at a time, because one picture may need all memory of the worker.
    """

    def __init__(self, settings: Settings) -> None:
        """Start the worker and connect to object storage."""
        logs.to_stderr()
        self._worker = SandboxedProcess(_WORKER, settings.converter_memory_bytes)
        self._worker_is_ready = False
        self._blobs = BlobStore(settings)
        self._memory_bytes = settings.converter_memory_bytes
        self._node = Node(socket.gethostname(), _share_of_node(settings))

    def ready(self) -> Node:
        """Limit the memory of this process, wait for the worker, and return the node on which both run.

        Without the limits, one large picture could use up the memory of the whole node. Raises ChildDied.
        """
        memory.limit(self._memory_bytes)
        self._wait_for_worker()
        return self._node

    def _wait_for_worker(self) -> None:
        if not self._worker_is_ready:
            self._worker.wait_until_ready()
            self._worker_is_ready = True

    def run(self, work_item: WorkItem, pixels: Any = None) -> Iterator[Any]:
        """Run the steps of a work item, and yield the messages and pictures that `dag.messages` describes.

        `pixels` is given only with a PixelsWork: the two values of Picture.share, or an Inferred. If a step fails, the
        method yields the error in a Failed and does not raise it. Raises ChildDied if a step kills the worker. Then
        this converter cannot be used any more.
        """
        yield Started(work_item.segment.steps[0].name)
        if isinstance(work_item, ArtifactsWork) and isinstance(work_item.segment.step.operation, Bundler):
            yield _bundle(self._blobs, work_item)
            return
        self._wait_for_worker()
        try:
            yield from _Conversation(self._worker, self._blobs, work_item).run(pixels)
        except (EOFError, OSError) as error:
            raise ChildDied(f"the worker died (exit code {self._worker.exit_code()})") from error
        except (ValidationError, InvalidMessage) as error:
            # A picture has taken over the worker, or the worker has a bug.
            log.exception("invalid message of a worker")
            self._worker.end()
            raise ChildDied("the worker sent an invalid message") from error

    def close(self) -> None:
        """End the worker."""
        self._worker.end()


def _share_of_node(settings: Settings) -> int:
    """Return how many bytes of memory the converters of one dispatcher may use on this node."""
    node_bytes = settings.node_memory_bytes or round(memory.of_node() * _SHARE_OF_NODE)
    return node_bytes // settings.dispatchers


class _Conversation:
    """The exchange with the worker about one work item. `dag.worker_messages` describes the messages of the worker.

    The worker may be under the control of a hostile picture. So it gets only the blobs of its work item, and it decides
    neither the keys of new blobs nor whether an error counts as an outage.
    """

    def __init__(self, worker: SandboxedProcess, blobs: BlobStore, work_item: WorkItem) -> None:
        self._connection = worker.connection
        self._blobs = blobs
        self._work_item = work_item
        self._open = {step.name: step for step in work_item.segment.steps}  # steps without an outcome
        self._readable = _blob_keys(work_item)
        self._stored: dict[str, Stored] = {}  # by step
        self._own_errors: dict[str, PixToolsError] = {}  # the errors that the worker got from here, by code

    def run(self, pixels: Any) -> Iterator[Any]:
        """Run the steps. Raises EOFError or OSError if the worker dies, and InvalidMessage or ValidationError."""
        self._send_work_item(pixels)
        del pixels
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
                    yield Decoded()
                case Pixels():
                    self._check_pixels(message)
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
        return WORKER_MESSAGE.validate_json(self._connection.recv_bytes(_MAX_MESSAGE_BYTES))

    def _answer(self, error: PixToolsError | None) -> None:
        if error is not None:
            self._own_errors[error.code] = error
        self._connection.send(error)

    def _send_blob(self, key: str) -> None:
        if key not in self._readable:
            raise InvalidMessage(f"the blob {key} does not belong to the work item")
        try:
            data = self._blobs.get(key)
        except PixToolsError as error:
            self._answer(error)
        else:
            self._answer(None)
            self._connection.send_bytes(data)

    def _store(self, message: Put) -> None:
        step = self._open_step(message.step)
        size = (message.width, message.height) if message.width and message.height else None
        with tempfile.SpooledTemporaryFile(max_size=_SPOOLED_BYTES) as file:
            error = self._receive_file(message.bytes, file)
            if error is None:
                try:
                    stored = _put(
                        self._blobs, self._work_item, step, file, self._bytes_left(), size=size, result=message.result
                    )
                    self._stored[step.name] = stored
                except PixToolsError as failure:
                    error = failure
        self._answer(error)

    def _bytes_left(self) -> int:
        return self._work_item.inputs.bytes_left - sum(stored.bytes for stored in self._stored.values())

    def _receive_file(self, size: int, file: IO[bytes]) -> PixToolsError | None:
        """Write the next `size` bytes from the worker to `file`. Return the error of the disk, if there is one."""
        error: PixToolsError | None = None
        while size > 0:
            chunk = self._connection.recv_bytes(CHUNK_BYTES)
            size -= len(chunk)
            try:
                if error is None:
                    file.write(chunk)
            except OSError as failure:  # read the rest of the file all the same, because messages follow it
                log.warning("cannot write a temporary file: %s", failure)
                error = DiskFull(_DISK_FULL) if is_full(failure) else PixToolsError()
        return error

    def _check_pixels(self, message: Pixels) -> None:
        segment = self._work_item.segment
        if message.inference not in (None, *segment.offloaded):
            raise InvalidMessage(f"the segment does not hand over the inference {message.inference}")

    def _receive_pixels(self, message: Pixels) -> Any:
        # Zeros, because the memory of this process holds secrets.
        pixels = np.zeros(message.shape, message.dtype)
        self._connection.recv_bytes_into(pixels.reshape(-1).view(np.uint8).data)
        return pixels

    def _open_step(self, name: str) -> PlannedStep:
        if name not in self._open:
            raise InvalidMessage(f"the step {name} is not open in the segment")
        return self._open[name]

    def _success(self, message: Made) -> Succeeded:
        step, stored = self._open_step(message.step), self._stored.get(message.step)
        if step.leaves_file and stored is None:
            raise InvalidMessage(f"the step {message.step} left no file")
        del self._open[message.step]
        return Succeeded(message.step, stored, message.run_ms)

    def _failure(self, message: NotMade) -> Failed:
        self._open_step(message.step)
        del self._open[message.step]
        return Failed(message.step, self._error(message), message.run_ms)

    def _error(self, message: NotMade) -> PixToolsError:
        """Return the error of a failed step. The worker itself has no errors after which a step is tried again."""
        if message.code in self._own_errors:
            return self._own_errors[message.code]
        kind = error_class(message.code)
        if kind is None or kind.retryable or kind.outage:
            return PixToolsError()
        return kind(message.detail, tuple(Fault(pointer, detail) for pointer, detail in message.faults))


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


def _bundle(blobs: BlobStore, work_item: ArtifactsWork) -> Succeeded | Failed:
    """Bundle the files of other steps. The files are copied and not decoded, so this needs no worker."""
    step, started = work_item.segment.step, time.perf_counter()
    operation = step.operation
    assert isinstance(operation, Bundler)  # noqa: S101 (the caller has checked this)
    entries = (BundleEntry(file.name, partial(blobs.open, file.blob_key)) for file in work_item.files)
    try:
        with tempfile.SpooledTemporaryFile(max_size=_SPOOLED_BYTES) as out:
            operation.run(entries, out, step.params)
            stored = _put(blobs, work_item, step, out, work_item.inputs.bytes_left)
    except PixToolsError as error:
        return Failed(step.name, error, _ms_since(started))
    except OSError as error:
        log.exception("step failed: step=%s op=%s", step.name, operation.name)
        return Failed(step.name, DiskFull(_DISK_FULL) if is_full(error) else PixToolsError(), _ms_since(started))
    return Succeeded(step.name, stored, _ms_since(started))


def _put(
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
    digest, length = hashlib.sha256(), 0
    file.seek(0)
    while chunk := file.read(1 << 20):
        digest.update(chunk)
        length += len(chunk)
    if length > bytes_left:
        raise ResultsTooLarge(
            f"The file has {length:,} bytes, but the files of this job may take only {max(0, bytes_left):,} bytes more "
            "(PIXTOOLS_MAX_JOB_BYTES). Send a job with fewer steps, smaller pictures or a lower quality."
        )
    file.seek(0)
    blobs.put(key, file, step.operation.media_type)
    width, height = size or (None, None)
    return Stored(step.key, key, step.operation.media_type, length, digest.hexdigest(), width, height, result)


def _ms_since(started: float) -> int:
    return round((time.perf_counter() - started) * 1000)
