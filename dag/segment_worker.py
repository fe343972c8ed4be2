"""Runs the steps of work items in a sandboxed process: all decoding, changing and encoding of pictures happens here.

A converter starts this process, sends work items and blobs, and stores the results. `dag.worker_messages` describes the
messages in the other direction.
"""

from __future__ import annotations

import codecs
import json
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any, assert_never

import numpy as np
from PIL import Image

from dag.messages import ArtifactsWork, FileWork, Inferred, PixelsWork, SourceWork, WorkItem
from dag.plan import PlannedStep
from dag.segments import FileSegment, SegmentWithHead, SourceSegment
from dag.worker_messages import (
    CHUNK_BYTES,
    End,
    Get,
    GivenPixels,
    HeadReady,
    Made,
    NotMade,
    Pixels,
    Put,
    WorkerMessage,
)  # fmt: skip
from pixtools import memory
from pixtools.errors import OutOfMemory, PixToolsError
from pixtools.imaging import text_rendering
from pixtools.imaging.decoding import decode, read_metadata
from pixtools.imaging.picture import Picture, Size
from pixtools.operations.base.kinds import Bundler, Composite, Encoded, Encoder, Inference, Inspector, Transform
from pixtools.operations.png import PNG

log = logging.getLogger(__name__)

_OUT_OF_MEMORY = (
    "Use a smaller picture. Or raise PIXTOOLS_CONVERTER_MEMORY_BYTES in the service's settings, and redrive the step."
)
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
        _run(work_item, None if given is None else _receive(connection, given), parent)
        parent.tell(End())
        if gauge.own_bytes() > idle_bytes + _KEPT_BYTES:
            memory.trim()  # otherwise the process would keep more freed memory after each large work item


def _receive(connection: Connection, given: GivenPixels) -> Inferred | tuple[Any, Picture]:
    pixels = np.frombuffer(connection.recv_bytes(), given.dtype).reshape(given.shape)
    if given.result is None:
        return pixels, given.description
    return Inferred(pixels, given.description, given.result)


class _Parent:
    """The converter, as its worker sees it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def tell(self, message: WorkerMessage) -> None:
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


def _run(work_item: WorkItem, pixels: Inferred | tuple[Any, Picture] | None, parent: _Parent) -> None:
    workspace = _Workspace(work_item, pixels, parent)
    del pixels  # the workspace drops them after it has made the head from them
    if isinstance(work_item, ArtifactsWork):
        step = work_item.segment.step
        _attempt(parent, [step], partial(workspace.make, step))
    else:
        _run_steps(work_item.segment, workspace, parent)


def _run_steps(segment: SegmentWithHead, workspace: _Workspace, parent: _Parent) -> None:
    """Run the steps of a segment. Skip each step that reads a failed or skipped step."""
    skipped: set[str] = set()  # failed steps, and the steps that read them
    for at, step in enumerate(segment.steps):
        if step.name in skipped or skipped.intersection(step.inputs):
            skipped.add(step.name)
            continue
        if segment.reads_head(step) and segment.head not in workspace.pictures:
            failed = _load_head(segment, workspace, parent)
            if failed:
                skipped |= failed
                continue
        if segment.offloads(step):
            made = _attempt(parent, [step], partial(workspace.offload, step), tell_success=False)
        else:
            made = _attempt(parent, [step], partial(workspace.make, step))
        if not made:
            skipped.add(step.name)
        workspace.keep_only(segment.needed_after(at))


def _load_head(segment: SegmentWithHead, workspace: _Workspace, parent: _Parent) -> set[str]:
    """Load the head: the picture that the segment starts from.

    If other segments start from this picture too, share it with them. Return the failed steps. If the picture cannot be
    loaded, all steps that read the head fail.
    """
    readers = [step for step in segment.steps if segment.reads_head(step)]
    if not _attempt(parent, readers, workspace.load_head, tell_success=False):
        return {step.name for step in readers}
    if isinstance(segment, SourceSegment | FileSegment):
        parent.tell(HeadReady())
        if segment.shares_head:
            workspace.share_head(segment.head)
    return set()


class _Workspace:
    """The data of one work item: the file that it starts from, and the pictures that later steps read."""

    def __init__(self, work_item: WorkItem, pixels: Inferred | tuple[Any, Picture] | None, parent: _Parent) -> None:
        """Create an empty workspace. `pixels` is given only if `work_item` is a PixelsWork."""
        self._work_item = work_item
        self._pixels = pixels
        self._parent = parent
        self._file: bytes | None = None
        self.pictures: dict[str, Picture] = {}  # by the name of the step, or of the head
        self._inference_result: dict[str, Any] | None = None  # set if the pixels come from the denoiser
        self._shared_head: Any = None  # the head in the form that Picture.share returns, until it is shared

    def file(self) -> bytes:
        """Return the file that the work item starts from. Raises ObjectMissing or StorageDown."""
        if self._file is None:
            self._file = self._parent.get(self._file_key())
        return self._file

    def _file_key(self) -> str:
        match self._work_item:
            case SourceWork(inputs=inputs):
                return inputs.source_key
            case FileWork(blob_key=key):
                return key
            case ArtifactsWork(files=files):
                return files[0].blob_key
            case PixelsWork():
                raise AssertionError("no step of a PixelsWork reads a file")
            case _:
                assert_never(self._work_item)

    def load_head(self) -> None:
        """Load the head of the segment. Prepare the picture for sharing if other segments start from it too."""
        work_item = self._work_item
        match work_item:
            case SourceWork(segment=segment):
                picture = self._decode(segment)
            case FileWork(segment=segment, inputs=inputs):
                # The stored file lacks some metadata of the source, such as the GPS position. Pixels that come directly
                # from the denoiser have all of it. Read the source, so that the result is the same in both cases.
                metadata = read_metadata(self._parent.get(inputs.source_key))
                picture = replace(self._decode(segment), metadata=metadata)
            case PixelsWork(segment=segment):
                picture = self._received_picture()
            case ArtifactsWork():
                raise AssertionError("an ArtifactsWork does not start from pixels")
            case _:
                assert_never(work_item)
        self.pictures[segment.head] = picture
        if isinstance(segment, SourceSegment | FileSegment) and segment.shares_head:
            self._shared_head = picture.in_8_bit().share()

    def _decode(self, segment: SourceSegment | FileSegment) -> Picture:
        return decode(self.file(), segment.needed_size, high_bit_depth=segment.needs_high_bit_depth)

    def _received_picture(self) -> Picture:
        pixels, self._pixels = self._pixels, None
        if isinstance(pixels, Inferred):
            self._inference_result = pixels.result
            return Picture.shared(pixels.frames, pixels.rest)
        assert pixels is not None  # noqa: S101 (a PixelsWork comes with pixels)
        return Picture.shared(*pixels)

    def share_head(self, name: str) -> None:
        """Share the head `name` with the other segments that start from it."""
        shared, self._shared_head = self._shared_head, None
        self._parent.share(name, None, shared)

    def offload(self, step: PlannedStep) -> None:
        """Share the picture that the inference `step` reads."""
        self._parent.share(step.inputs[0], step.name, self.pictures[step.inputs[0]].share())

    def keep_only(self, names: set[str]) -> None:
        """Keep the pictures of the steps in `names`. Drop all others, because each picture may take 200 MB."""
        self.pictures = {name: picture for name, picture in self.pictures.items() if name in names}

    def make(self, step: PlannedStep) -> None:
        """Run a step. If the step leaves a file, let the converter store it."""
        operation, params = step.operation, step.params
        match operation:
            case Encoder():
                source_bytes = self._work_item.inputs.source_bytes
                self._put(step, operation.encode(self._input_picture(step), params, source_bytes))
            case Transform():
                self._keep(step, operation.run(self._input_picture(step), params))
            case Composite():
                names = set(operation.parts(params).values())
                parts = {name: self._parent.get(self._work_item.inputs.parts[name]) for name in names}
                self._keep(step, operation.run(self._input_picture(step), params, parts))
            case Inference():
                self._put_pixels(step, self.pictures[step.name], self._inference_result)
            case Inspector():
                result = operation.run(self.file(), params)
                text = json.dumps(result, ensure_ascii=False, indent=2)
                self._parent.put(step, text.encode(), None, result)
            case Bundler():
                raise AssertionError("the converter itself makes bundles")
            case _:
                assert_never(operation)

    def _input_picture(self, step: PlannedStep) -> Picture:
        """Return the picture that a step reads, with 8 bits per channel. No operation in a converter uses more."""
        return self.pictures[step.inputs[0]].in_8_bit()

    def _keep(self, step: PlannedStep, picture: Picture) -> None:
        """Keep the picture for later steps. Store the picture if the step leaves a file."""
        self.pictures[step.name] = picture
        if step.leaves_file:
            self._put_pixels(step, picture)

    def _put_pixels(self, step: PlannedStep, picture: Picture, result: dict[str, Any] | None = None) -> None:
        """Store a picture as a lossless PNG."""
        encoded = PNG.encode(picture, PNG.params(), self._work_item.inputs.source_bytes)
        self._put(step, replace(encoded, result=result))

    def _put(self, step: PlannedStep, encoded: Encoded) -> None:
        self._parent.put(step, encoded.data, encoded.picture.size, encoded.result)


def _attempt(parent: _Parent, steps: list[PlannedStep], make: Callable[[], None], *, tell_success: bool = True) -> bool:
    """Call `make`, and return whether it succeeded. Tell the outcome of `steps`, which `make` runs or prepares."""
    started = time.perf_counter()
    error = _error_of(make, steps[0])
    run_ms = round((time.perf_counter() - started) * 1000)
    for step in steps:
        if error is not None:
            faults = [(fault.pointer, fault.detail) for fault in error.faults]
            parent.tell(NotMade(step=step.name, run_ms=run_ms, code=error.code, detail=error.detail, faults=faults))
        elif tell_success:
            parent.tell(Made(step=step.name, run_ms=run_ms))
    return error is None


def _error_of(make: Callable[[], None], step: PlannedStep) -> PixToolsError | None:
    """Call `make`, and return the error with which `step` fails, or None."""
    try:
        make()
    except PixToolsError as error:
        return error
    except MemoryError:
        log.warning("out of memory: step=%s op=%s", step.name, step.operation.name, exc_info=True)
        return OutOfMemory(_OUT_OF_MEMORY)
    except Exception:
        log.exception("step failed unexpectedly: step=%s op=%s", step.name, step.operation.name)
        return PixToolsError()
    return None
