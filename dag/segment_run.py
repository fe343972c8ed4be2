"""Runs the steps of one work item on pictures in memory.

A `SegmentIO` provides the blobs and receives the files. There are two kinds: that of a worker talks to its converter
(`dag.segment_worker`), and that of a `Pipeline` keeps everything in memory (`dag.pipeline`).
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Protocol, assert_never

from dag.messages import ArtifactsWork, FileWork, Inferred, PixelsWork, SourceWork, WorkItem
from dag.plan import PlannedStep
from dag.segments import FileSegment, SegmentWithHead, SourceSegment
from dag.worker_messages import HeadReady, Made, NotMade, WorkerMessage
from pixtools import logs
from pixtools.errors import OutOfMemory, PixToolsError
from pixtools.imaging.decoding import decode, read_metadata
from pixtools.imaging.picture import Picture, Size
from pixtools.operations.base.kinds import Bundler, Composite, Encoded, Encoder, Inference, Inspector, Transform
from pixtools.operations.png import PNG

log = logging.getLogger(__name__)

_OUT_OF_MEMORY = (
    "Use a smaller picture. Or raise PIXTOOLS_CONVERTER_MEMORY_BYTES in the service's settings, and redrive the step."
)


class SegmentIO(Protocol):
    """Provides the blobs that steps read. Receives the files, pictures and messages that steps make."""

    def tell(self, message: WorkerMessage) -> None:
        """Receive a message, for example that a step has ended."""

    def get(self, key: str) -> bytes:
        """Return a blob. Raises ObjectMissing or StorageDown."""

    def put(self, step: PlannedStep, file: bytes, size: Size | None, result: dict[str, Any] | None) -> None:
        """Store the file of a step. Raises the errors of the blob store and of the disk."""

    def share(self, step: str, inference: str | None, shared: tuple[Any, Picture]) -> None:
        """Hand the picture of `step` to the step `inference`. Without `inference`, other segments start from it."""


def run(work_item: WorkItem, pixels: Inferred | tuple[Any, Picture] | None, io: SegmentIO) -> None:
    """Run the steps of a work item. `pixels` is given only with a PixelsWork. Tell the outcome of each step.

    Does not raise the error of a step: `io.tell` gets it in a NotMade. Bundles are not accepted.
    """
    workspace = _Workspace(work_item, pixels, io)
    del pixels  # the workspace drops them after it has made the head from them
    if isinstance(work_item, ArtifactsWork):
        step = work_item.segment.step
        _attempt(io, [step], partial(workspace.make, step))
    else:
        _run_steps(work_item.segment, workspace, io)


def _run_steps(segment: SegmentWithHead, workspace: _Workspace, io: SegmentIO) -> None:
    """Run the steps of a segment. Skip each step that reads a failed or skipped step."""
    skipped: set[str] = set()  # failed steps, and the steps that read them
    for at, step in enumerate(segment.steps):
        if step.name in skipped or skipped.intersection(step.inputs):
            skipped.add(step.name)
            continue
        if segment.reads_head(step) and segment.head not in workspace.pictures:
            failed = _load_head(segment, workspace, io)
            if failed:
                skipped |= failed
                continue
        if segment.offloads(step):
            made = _attempt(io, [step], partial(workspace.offload, step), tell_success=False)
        else:
            made = _attempt(io, [step], partial(workspace.make, step))
        if not made:
            skipped.add(step.name)
        workspace.keep_only(segment.needed_after(at))


def _load_head(segment: SegmentWithHead, workspace: _Workspace, io: SegmentIO) -> set[str]:
    """Load the head, which is the first picture of the segment. Share it with the other segments that need it.

    Return the names of the steps that failed: all that read the head if it cannot be loaded, otherwise none.
    """
    readers = [step for step in segment.steps if segment.reads_head(step)]
    if not _attempt(io, readers, workspace.load_head, tell_success=False):
        return {step.name for step in readers}
    if isinstance(segment, SourceSegment | FileSegment):
        io.tell(HeadReady())
        if segment.shares_head:
            workspace.share_head(segment.head)
    return set()


class _Workspace:
    """The data of one work item: its input file, and the pictures for later steps."""

    def __init__(self, work_item: WorkItem, pixels: Inferred | tuple[Any, Picture] | None, io: SegmentIO) -> None:
        """Create an empty workspace. `pixels` is given only if `work_item` is a PixelsWork."""
        self._work_item = work_item
        self._pixels = pixels
        self._io = io
        self._file: bytes | None = None
        self.pictures: dict[str, Picture] = {}  # by the name of the step, or of the head
        self._inference_result: dict[str, Any] | None = None  # set if the pixels come from the denoiser
        self._shared_head: Any = None  # the head in the form that Picture.share returns, until it is shared

    def file(self) -> bytes:
        """Return the file that the work item starts from. Raises ObjectMissing or StorageDown."""
        if self._file is None:
            self._file = self._io.get(self._file_key())
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
        """Load the first picture of the segment. If other segments begin with it too, prepare it for sharing."""
        work_item = self._work_item
        match work_item:
            case SourceWork(segment=segment):
                picture = self._decode(segment)
            case FileWork(segment=segment, inputs=inputs):
                # The stored file lacks some metadata of the source, such as the GPS position. A picture that comes
                # directly from the denoiser has all metadata. Both must give the same result, so read the metadata from
                # the source.
                metadata = read_metadata(self._io.get(inputs.source_key))
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
        self._io.share(name, None, shared)

    def offload(self, step: PlannedStep) -> None:
        """Share the picture that the inference `step` reads."""
        self._io.share(step.inputs[0], step.name, self.pictures[step.inputs[0]].share())

    def keep_only(self, names: set[str]) -> None:
        """Keep the pictures of the steps in `names`. Drop all others, because each picture may take 200 MB."""
        self.pictures = {name: picture for name, picture in self.pictures.items() if name in names}

    def make(self, step: PlannedStep) -> None:
        """Run a step. If the step leaves a file, put the file."""
        operation, params = step.operation, step.params
        match operation:
            case Encoder():
                source_bytes = self._work_item.inputs.source_bytes
                self._put(step, operation.encode(self._input_picture(step), params, source_bytes))
            case Transform():
                self._keep(step, operation.run(self._input_picture(step), params))
            case Composite():
                names = set(operation.parts(params).values())
                parts = {name: self._io.get(self._work_item.inputs.parts[name]) for name in names}
                self._keep(step, operation.run(self._input_picture(step), params, parts))
            case Inference():
                self._put_pixels(step, self.pictures[step.name], self._inference_result)
            case Inspector():
                result = operation.run(self.file(), params)
                text = json.dumps(result, ensure_ascii=False, indent=2)
                self._io.put(step, text.encode(), None, result)
            case Bundler():
                raise AssertionError("the caller makes bundles")
            case _:
                assert_never(operation)

    def _input_picture(self, step: PlannedStep) -> Picture:
        """Return the input picture of a step, with 8 bits per channel. Operations in a worker use at most 8 bits."""
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
        self._io.put(step, encoded.data, encoded.picture.size, encoded.result)


def _attempt(io: SegmentIO, steps: list[PlannedStep], make: Callable[[], None], *, tell_success: bool = True) -> bool:
    """Call `make`, which runs or prepares `steps`. Tell their outcomes. Return whether `make` succeeded."""
    started = time.perf_counter()
    with logs.about(step=steps[0].name, op=steps[0].operation.name):
        error = _error_of(make)
    run_ms = round((time.perf_counter() - started) * 1000)
    for step in steps:
        if error is not None:
            faults = [(fault.pointer, fault.detail) for fault in error.faults]
            io.tell(NotMade(step=step.name, run_ms=run_ms, code=error.code, detail=error.detail, faults=faults))
        elif tell_success:
            io.tell(Made(step=step.name, run_ms=run_ms))
    return error is None


def _error_of(make: Callable[[], None]) -> PixToolsError | None:
    """Call `make`. Return the error of the step, or None if `make` succeeded."""
    try:
        make()
    except PixToolsError as error:
        return error
    except MemoryError:
        log.warning("out of memory", exc_info=True)
        return OutOfMemory(_OUT_OF_MEMORY)
    except Exception:
        log.exception("step failed unexpectedly")
        return PixToolsError()
    return None
