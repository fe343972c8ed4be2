"""The converter: lets a sandboxed worker run the steps of work items, and keeps their files in object storage.

The converter holds the credentials of object storage and the token of the Ray cluster, so it never decodes a picture
itself.
"""

from __future__ import annotations

import logging
import socket
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

from actors.converter_pool import Node
from actors.worker_conversation import WorkerConversation, disk_error, put_file
from dag.messages import ArtifactsWork, ConverterMessage, WorkItem
from pixtools import logs, memory, tracing
from pixtools.blob_store import BlobStore
from pixtools.errors import PixToolsError
from pixtools.jobs.outcomes import Failed, Started, Succeeded
from pixtools.operations.base.kinds import BundleEntry, Bundler
from pixtools.sandbox.process import ChildDied, SandboxedProcess
from pixtools.settings import Settings

log = logging.getLogger(__name__)

_SHARE_OF_NODE = 0.7  # idle processes, Ray's shared memory and other programs use the rest of the memory
_SPOOLED_BYTES = 8 << 20  # a larger bundle is written to disk before it goes to object storage

_WORKER = "dag.segment_worker:prepare"


class Converter:
    """Runs steps in a sandboxed child process, the worker, and stores the files that the worker makes.

    A converter runs one call at a time, because one picture may need all memory of the worker.
    """

    def __init__(self, settings: Settings, prepare: str = _WORKER, node: str | None = None) -> None:
        """Start the worker and connect to object storage. `prepare` is the first function of the worker.

        `node` is the name of the node, which no other node of the cluster has.
        """
        logs.to_stderr(settings.log_format)
        tracing.start(settings.traces_url, "converter")
        self._prepare = prepare
        self._memory_bytes = settings.converter_memory_bytes
        self._worker = self._new_worker()
        self._owner: str | None = None  # whose pictures the worker has read
        self._blobs = BlobStore(settings)
        self._node = Node(node or socket.gethostname(), _share_of_node(settings))

    def ready(self) -> Node:
        """Limit the memory of this process, wait for the worker, and return the node of both.

        Without the limits, one large picture could use up the memory of the whole node. Raises ChildDied.
        """
        memory.limit(self._memory_bytes)
        self._worker.wait_until_ready()
        return self._node

    def run(self, work_item: WorkItem, pixels: Any = None) -> Iterator[Any]:
        """Run the steps of a work item, and yield the messages and pictures that `dag.messages` describes.

        `pixels` is given only with a PixelsWork: the two values of Picture.share, or an Inferred. If a step fails, the
        method yields the error in a Failed and does not raise it. Raises ChildDied if a step kills the worker, or if
        the worker breaks the rules. The next call starts another worker.
        """
        ids = work_item.inputs.ids or {}
        with tracing.begin("segment", ids.get("traceparent"), steps=len(work_item.segment.steps)) as span:
            # All lines and spans until the next call belong to this segment.
            logs.begin({**ids, **span.as_ids()})
            yield from self._run(work_item, pixels)

    def _run(self, work_item: WorkItem, pixels: Any) -> Iterator[Any]:
        yield Started(work_item.segment.steps[0].name)
        if isinstance(work_item, ArtifactsWork) and isinstance(work_item.segment.step.operation, Bundler):
            yield _bundle(self._blobs, work_item)
            return
        worker = self._worker_for(work_item.inputs.owner)
        is_done = False
        try:
            yield from WorkerConversation(worker.connection, self._blobs, work_item, self._memory_bytes).run(pixels)
            is_done = True
        except Exception as error:
            raise ChildDied(f"the worker failed: {error!r} (exit code {worker.end()})") from error
        finally:
            # The worker has died or breaks the rules, there is a bug, or nobody reads this generator any more. In each
            # case, the rest of the exchange would reach the next work item.
            if not is_done:
                worker.end()

    def run_all(self, work_items: list[WorkItem]) -> list[list[ConverterMessage]]:
        """Run work items one after the other. Return the messages that `run` yields, as a list for each work item.

        The work items must neither read pixels of other processes nor hand over pixels.
        """
        return [list(self.run(work_item)) for work_item in work_items]

    def close(self) -> None:
        """End the worker."""
        self._worker.end()

    def _new_worker(self) -> SandboxedProcess:
        return SandboxedProcess(self._prepare, self._memory_bytes)

    def _worker_for(self, owner: str) -> SandboxedProcess:
        """Return a worker that is ready. It has read no pictures of other owners, because a picture may control it."""
        if self._owner not in (None, owner) or not self._worker.is_running:
            self._worker.end()
            self._worker = self._new_worker()
        self._owner = owner
        self._worker.wait_until_ready()
        return self._worker


def _share_of_node(settings: Settings) -> int:
    """Return how many bytes of memory the converters of one dispatcher may use on this node."""
    node_bytes = settings.node_memory_bytes or round(memory.of_node() * _SHARE_OF_NODE)
    return node_bytes // settings.dispatchers


def _bundle(blobs: BlobStore, work_item: ArtifactsWork) -> Succeeded | Failed:
    """Bundle the files of other steps. The files are copied and not decoded, so this needs no worker."""
    step, started = work_item.segment.step, time.perf_counter()
    operation = step.operation
    assert isinstance(operation, Bundler)  # noqa: S101 (the caller has checked this)
    entries = (BundleEntry(file.name, partial(blobs.open, file.blob_key)) for file in work_item.files)
    try:
        with tempfile.SpooledTemporaryFile(max_size=_SPOOLED_BYTES) as out:
            operation.run(entries, out, step.params)
            stored = put_file(blobs, work_item, step, out, work_item.inputs.bytes_left)
    except PixToolsError as error:
        return Failed(step.name, error, _ms_since(started))
    except OSError as error:
        with logs.about(step=step.name, op=operation.name):
            log.exception("step failed")
        return Failed(step.name, disk_error(error), _ms_since(started))
    return Succeeded(step.name, stored, _ms_since(started))


def _ms_since(started: float) -> int:
    return round((time.perf_counter() - started) * 1000)
