"""The converter: it decodes, transforms, encodes, and puts what it made in object storage."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import IO, Any, assert_never

from actors.converter_pool import Node
from dag.plan import SOURCE, Step
from dag.segments import Decoded, HandedOn, Inferred, Order
from pixtools import logs, memory
from pixtools.blob_store import BlobStore, artifact_key
from pixtools.errors import DiskFull, OutOfMemory, PixToolsError, is_full
from pixtools.imaging.decoding import decode, read_notes
from pixtools.imaging.picture import Picture, Size
from pixtools.jobs.outcomes import Began, Done, Failed, Stored
from pixtools.operations.base.kinds import Bundler, Composite, Encoded, Encoder, Entry, Inference, Inspector, Transform
from pixtools.operations.png import PNG
from pixtools.settings import Settings

log = logging.getLogger(__name__)

_TOO_MUCH = (
    "Make the picture smaller; or raise PIXTOOLS_CONVERTER_MEMORY_BYTES where the service runs, and redrive the step."
)
_KEPT_BYTES = 64_000_000  # for the next order; after some large ones there would be several times as much
_SHARE_OF_NODE = 0.7  # the rest is for idle processes, Ray's shared memory, and whatever else runs there
_IN_MEMORY_BYTES = 8 << 20  # a bundle larger than this is written to disk first


class Converter:
    """Owns a connection to object storage. One call at a time: each may need a picture's whole memory."""

    def __init__(self, settings: Settings) -> None:
        logs.to_stderr()
        self._blobs = BlobStore(settings)
        self._idle_bytes = memory.own_bytes()
        self._memory_bytes = settings.converter_memory_bytes
        self._node = Node(socket.gethostname(), _share_of_node(settings))

    def ready(self) -> Node:
        """Say where the process runs, once it is up with its memory limited: a picture may cost it, never a machine."""
        memory.limit(self._memory_bytes)
        return self._node

    def run(self, order: Order, *pixels: Any) -> Iterator[Any]:
        """Make the steps of an order and yield what came of each, in order.

        `pixels` are those of the head when another process made them: see Picture.share, or Inferred.
        A Began says that the order has arrived, a Decoded comes before the first step that needs pixels, and
        steps that read a failed one are passed over. What is to leave for another process is an item of its own,
        right after the Decoded or HandedOn that announces it.
        """
        segment, steps = order.segment, order.segment.steps
        yield Began(steps[0].name)
        table = _Table(self._blobs, order)
        lost: set[str] = set()
        for at, step in enumerate(steps):
            if step.name in lost or lost.intersection(step.inputs):
                lost.add(step.name)
                continue
            if segment.reads_head(step) and segment.head not in table.pictures:
                failure = _attempt(step, partial(table.obtain_head, pixels))
                if isinstance(failure, Failed):
                    readers = [other.name for other in steps if segment.reads_head(other)]
                    yield from (Failed(reader, failure.error, failure.run_ms) for reader in readers)
                    lost.update(readers)
                    continue
                if not pixels:
                    yield Decoded()
                    if segment.exports:
                        yield table.take_shared()
            hands_on = segment.hands_on(step)
            outcome = _attempt(step, partial(table.share, step.inputs[0]) if hands_on else partial(table.make, step))
            if isinstance(outcome, Failed):
                lost.add(step.name)
            if hands_on and isinstance(outcome, Done):
                yield HandedOn(step.name)
                yield table.take_shared()
            else:
                yield outcome
            table.keep_only({name for later in steps[at + 1 :] for name in later.inputs})
        del table
        if memory.own_bytes() > self._idle_bytes + _KEPT_BYTES:
            memory.trim()


def _share_of_node(settings: Settings) -> int:
    """Return the bytes that the converters of one dispatcher may take on this node."""
    whole = settings.node_memory_bytes or round(memory.of_node() * _SHARE_OF_NODE)
    return whole // settings.dispatchers


class _Table:
    """What one call has at hand: the head's file and the pictures made so far, by the step that made them."""

    def __init__(self, blobs: BlobStore, order: Order) -> None:
        self._blobs = blobs
        self._order = order
        self._data: bytes | None = None
        self.pictures: dict[str, Picture] = {}
        self._facts: dict[str, Any] | None = None  # what the head's inference said of it
        self._shared: Any = None  # a picture's parts, about to leave

    def file(self) -> bytes:
        """Return the file that the segment begins with: the source, or the artifact of the one step before it."""
        if self._data is None:
            entries = self._order.entries
            self._data = self._blobs.get(entries[0][1] if entries else self._order.inputs.source_key)
        return self._data

    def obtain_head(self, pixels: tuple[Any, ...]) -> None:
        """Put the head's pixels on the table, from another process's or its file; each may be too much."""
        segment = self._order.segment
        if not pixels:
            picture = decode(self.file(), segment.enough, deep=segment.is_deep)
            if segment.head != SOURCE:
                # An artifact holds less than its picture did, lest it shows anybody where it was taken.
                picture = replace(picture, notes=read_notes(self._blobs.get(self._order.inputs.source_key)))
        elif isinstance(pixels[0], Inferred):
            inferred = pixels[0]
            self._facts = inferred.facts
            picture = Picture.shared(inferred.frames, inferred.rest)
        else:
            picture = Picture.shared(*pixels[0])
        self.pictures[segment.head] = picture
        if segment.exports:
            self._shared = picture.in_8_bit().share()

    def share(self, name: str) -> None:
        """Make the parts of a picture ready to leave, which takes memory: see Picture.share."""
        self._shared = self.pictures[name].share()

    def take_shared(self) -> Any:
        shared, self._shared = self._shared, None
        return shared

    def keep_only(self, names: set[str]) -> None:
        """Forget the pictures that no later step reads: each may take 200 MB."""
        self.pictures = {name: picture for name, picture in self.pictures.items() if name in names}

    def make(self, step: Step) -> Stored | None:
        operation, params = step.operation, step.params
        match operation:
            case Encoder():
                return self._put_encoded(
                    step, operation.encode(self._picture(step), params, self._order.inputs.source_bytes)
                )
            case Transform():
                return self._pass_on(step, operation.run(self._picture(step), params))
            case Composite():
                names = set(operation.parts(params).values())
                parts = {name: self._blobs.get(self._order.inputs.parts[name]) for name in names}
                return self._pass_on(step, operation.run(self._picture(step), params, parts))
            case Inference():
                return self._leave(step, self.pictures[step.name], self._facts)
            case Inspector():
                result = operation.run(self.file(), params)
                text = json.dumps(result, ensure_ascii=False, indent=2)
                return self._put(step, io.BytesIO(text.encode()), result=result)
            case Bundler():
                with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES) as out:
                    entries = (Entry(name, partial(self._blobs.open, key)) for name, key in self._order.entries)
                    operation.run(entries, out, params)
                    return self._put(step, out)
            case _:
                assert_never(operation)

    def _picture(self, step: Step) -> Picture:
        """Return what a step reads, in the 8 bits that all operations of ours work on."""
        return self.pictures[step.inputs[0]].in_8_bit()

    def _pass_on(self, step: Step, picture: Picture) -> Stored | None:
        self.pictures[step.name] = picture
        return self._leave(step, picture) if step.leaves_file else None

    def _leave(self, step: Step, picture: Picture, facts: dict[str, Any] | None = None) -> Stored:
        """Leave pixels as a file, which loses nothing of them."""
        encoded = PNG.encode(picture, PNG.params(), self._order.inputs.source_bytes)
        return self._put_encoded(step, replace(encoded, facts=facts))

    def _put_encoded(self, step: Step, encoded: Encoded) -> Stored:
        return self._put(step, io.BytesIO(encoded.data), encoded.picture.size, encoded.facts)

    def _put(
        self,
        step: Step,
        file: IO[bytes],
        size: Size | None = None,
        result: dict[str, Any] | None = None,
    ) -> Stored:
        """Put a finished file in object storage, before anything refers to it."""
        key = artifact_key(self._order.inputs.owner, step.key, step.operation.extension)
        digest, length = hashlib.sha256(), 0
        file.seek(0)
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            length += len(chunk)
        file.seek(0)
        self._blobs.put(key, file, step.operation.media_type)
        width, height = size or (None, None)
        return Stored(
            step.key, key, step.operation.media_type, length, digest.hexdigest(), width, height, result,
        )  # fmt: skip


def _attempt(step: Step, make: Callable[[], Stored | None]) -> Done | Failed:
    """Time `make` and turn what it raises into the step's outcome."""
    started = time.perf_counter()
    try:
        stored = make()
    except PixToolsError as error:
        return Failed(step.name, error, _since(started))
    except MemoryError:
        log.warning("out of memory: step=%s op=%s", step.name, step.operation.name)
        return Failed(step.name, OutOfMemory(_TOO_MUCH), _since(started))
    except OSError as error:
        log.exception("step failed: step=%s op=%s", step.name, step.operation.name)
        kind = (
            DiskFull("Make room in the temporary folder of the converters' node, and redrive the step.")
            if is_full(error)
            else PixToolsError()
        )
        return Failed(step.name, kind, _since(started))
    except Exception:
        log.exception("step failed unexpectedly: step=%s op=%s", step.name, step.operation.name)
        return Failed(step.name, PixToolsError(), _since(started))
    return Done(step.name, stored, _since(started))


def _since(started: float) -> int:
    return round((time.perf_counter() - started) * 1000)
