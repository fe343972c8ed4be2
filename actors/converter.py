"""The converter: decodes, transforms and encodes pictures, and puts the results into object storage."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import socket
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from functools import partial
from typing import IO, Any, assert_never

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
from dag.segments import FileSegment, SegmentWithHead, SourceSegment
from pixtools import logs, memory
from pixtools.blob_store import BlobStore, artifact_key
from pixtools.errors import DiskFull, OutOfMemory, PixToolsError, ResultsTooLarge, is_full
from pixtools.imaging.decoding import decode, read_metadata
from pixtools.imaging.picture import Picture, Size
from pixtools.jobs.outcomes import Failed, Started, Stored, Succeeded
from pixtools.operations.base.kinds import (
    BundleEntry,
    Bundler,
    Composite,
    Encoded,
    Encoder,
    Inference,
    Inspector,
    Transform,
)
from pixtools.operations.png import PNG
from pixtools.settings import Settings

log = logging.getLogger(__name__)

_OUT_OF_MEMORY = (
    "Use a smaller picture. Or raise PIXTOOLS_CONVERTER_MEMORY_BYTES in the service's settings, and redrive the step."
)
_DISK_FULL = "Make free space in the temporary folder of the node on which the converter runs, and redrive the step."
_KEPT_BYTES = 64_000_000  # freed memory that the process keeps for the next work item
_SHARE_OF_NODE = 0.7  # idle processes, Ray's shared memory and other programs use the rest of the memory
_SPOOLED_BYTES = 8 << 20  # a larger bundle is written to disk


class Converter:
    """Runs the steps of work items, and owns a connection to object storage.

    A converter runs one call at a time, because one picture may need all memory of the converter.
    """

    def __init__(self, settings: Settings) -> None:
        """Connect to object storage."""
        logs.to_stderr()
        self._blobs = BlobStore(settings)
        self._idle_bytes = memory.own_bytes()
        self._memory_bytes = settings.converter_memory_bytes
        self._node = Node(socket.gethostname(), _share_of_node(settings))

    def ready(self) -> Node:
        """Limit the memory of this process, and return the node on which the process runs.

        Without the limit, one large picture could use up the memory of the whole node.
        """
        memory.limit(self._memory_bytes)
        return self._node

    def run(self, work_item: WorkItem, pixels: Any = None) -> Iterator[Any]:
        """Run the steps of a work item, and yield the messages and pictures that `dag.messages` describes.

        `pixels` is given only with a PixelsWork: the two values of Picture.share, or an Inferred. If a step fails, the
        method yields the error in a Failed and does not raise it.
        """
        yield Started(work_item.segment.steps[0].name)
        workspace = Workspace(self._blobs, work_item, pixels)
        if isinstance(work_item, ArtifactsWork):
            step = work_item.segment.step
            yield _attempt(step, partial(workspace.make, step))
        else:
            yield from _run_steps(work_item.segment, workspace)
        del workspace
        if memory.own_bytes() > self._idle_bytes + _KEPT_BYTES:
            memory.trim()  # otherwise the process would keep more freed memory after each large work item


def _share_of_node(settings: Settings) -> int:
    """Return how many bytes of memory the converters of one dispatcher may use on this node."""
    node_bytes = settings.node_memory_bytes or round(memory.of_node() * _SHARE_OF_NODE)
    return node_bytes // settings.dispatchers


def _run_steps(segment: SegmentWithHead, workspace: Workspace) -> Iterator[Any]:
    """Run the steps of a segment. Skip each step that reads a failed or skipped step."""
    skipped: set[str] = set()  # failed steps, and the steps that read them
    for at, step in enumerate(segment.steps):
        if step.name in skipped or skipped.intersection(step.inputs):
            skipped.add(step.name)
            continue
        if segment.reads_head(step) and segment.head not in workspace.pictures:
            failed = yield from _load_head(segment, workspace, step)
            if failed:
                skipped |= failed
                continue
        if segment.offloads(step):
            outcome = _attempt(step, partial(workspace.share, step.inputs[0]))
        else:
            outcome = _attempt(step, partial(workspace.make, step))
        if isinstance(outcome, Failed):
            skipped.add(step.name)
        if segment.offloads(step) and isinstance(outcome, Succeeded):
            yield PixelsReady(step.inputs[0], inference=step.name)
            yield workspace.take_shared()
        else:
            yield outcome
        workspace.keep_only({name for later in segment.steps[at + 1 :] for name in later.inputs})


def _load_head(
    segment: SegmentWithHead, workspace: Workspace, step: PlannedStep,
) -> Generator[Any, None, set[str]]:  # fmt: skip
    """Load the head for `step`: the picture that the segment starts from.

    If other segments start from this picture too, share it with them. Return the failed steps. If the picture cannot be
    loaded, all steps that read the head fail.
    """
    outcome = _attempt(step, workspace.load_head)
    if isinstance(outcome, Failed):
        readers = [other.name for other in segment.steps if segment.reads_head(other)]
        yield from (Failed(reader, outcome.error, outcome.run_ms) for reader in readers)
        return set(readers)
    if isinstance(segment, SourceSegment | FileSegment):
        yield Decoded()
        if segment.shares_head:
            yield PixelsReady(segment.head)
            yield workspace.take_shared()
    return set()


class Workspace:
    """The data of one converter call: the file that the call starts from, and the pictures that later steps read."""

    def __init__(self, blobs: BlobStore, work_item: WorkItem, pixels: Any = None) -> None:
        """Create an empty workspace. `pixels` is given only if `work_item` is a PixelsWork."""
        self._blobs = blobs
        self._work_item = work_item
        self._pixels = pixels
        self._stored_bytes = 0  # of the files that this call has put into object storage
        self._file: bytes | None = None
        self.pictures: dict[str, Picture] = {}  # by the name of the step, or of the head
        self._inference_result: dict[str, Any] | None = None  # set if the pixels come from the denoiser
        self._shared: Any = None  # the picture to yield next, in the form that Picture.share returns

    def file(self) -> bytes:
        """Return the file that the work item starts from. Raises ObjectMissing or StorageDown."""
        if self._file is None:
            self._file = self._blobs.get(self._file_key())
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
                picture = replace(self._decode(segment), metadata=read_metadata(self._blobs.get(inputs.source_key)))
            case PixelsWork(segment=segment):
                picture = self._received_picture()
            case ArtifactsWork():
                raise AssertionError("an ArtifactsWork does not start from pixels")
            case _:
                assert_never(work_item)
        self.pictures[segment.head] = picture
        if isinstance(segment, SourceSegment | FileSegment) and segment.shares_head:
            self._shared = picture.in_8_bit().share()

    def _decode(self, segment: SourceSegment | FileSegment) -> Picture:
        return decode(self.file(), segment.needed_size, high_bit_depth=segment.needs_high_bit_depth)

    def _received_picture(self) -> Picture:
        if isinstance(self._pixels, Inferred):
            self._inference_result = self._pixels.result
            return Picture.shared(self._pixels.frames, self._pixels.rest)
        return Picture.shared(*self._pixels)

    def share(self, name: str) -> None:
        """Prepare the picture of step `name` for sharing."""
        self._shared = self.pictures[name].share()

    def take_shared(self) -> Any:
        """Return the picture that is prepared for sharing, and drop the workspace's reference to this picture."""
        shared, self._shared = self._shared, None
        return shared

    def keep_only(self, names: set[str]) -> None:
        """Keep the pictures of the steps in `names`. Drop all others, because each picture may take 200 MB."""
        self.pictures = {name: picture for name, picture in self.pictures.items() if name in names}

    def make(self, step: PlannedStep) -> Stored | None:
        """Run a step. Return the artifact of the step, or None if the step only makes pixels for other steps."""
        operation, params = step.operation, step.params
        match operation:
            case Encoder():
                source_bytes = self._work_item.inputs.source_bytes
                return self._put_encoded(step, operation.encode(self._input_picture(step), params, source_bytes))
            case Transform():
                return self._keep(step, operation.run(self._input_picture(step), params))
            case Composite():
                names = set(operation.parts(params).values())
                parts = {name: self._blobs.get(self._work_item.inputs.parts[name]) for name in names}
                return self._keep(step, operation.run(self._input_picture(step), params, parts))
            case Inference():
                return self._put_pixels(step, self.pictures[step.name], self._inference_result)
            case Inspector():
                result = operation.run(self.file(), params)
                text = json.dumps(result, ensure_ascii=False, indent=2)
                return self._put(step, io.BytesIO(text.encode()), result=result)
            case Bundler():
                with tempfile.SpooledTemporaryFile(max_size=_SPOOLED_BYTES) as out:
                    operation.run(self._bundle_entries(), out, params)
                    return self._put(step, out)
            case _:
                assert_never(operation)

    def _input_picture(self, step: PlannedStep) -> Picture:
        """Return the picture that a step reads, with 8 bits per channel. No operation in a converter uses more."""
        return self.pictures[step.inputs[0]].in_8_bit()

    def _bundle_entries(self) -> Iterator[BundleEntry]:
        assert isinstance(self._work_item, ArtifactsWork)  # noqa: S101 (every bundle is an ArtifactsWork)
        return (BundleEntry(file.name, partial(self._blobs.open, file.blob_key)) for file in self._work_item.files)

    def _keep(self, step: PlannedStep, picture: Picture) -> Stored | None:
        """Keep the picture for later steps. Store the picture if the step leaves a file."""
        self.pictures[step.name] = picture
        return self._put_pixels(step, picture) if step.leaves_file else None

    def _put_pixels(self, step: PlannedStep, picture: Picture, result: dict[str, Any] | None = None) -> Stored:
        """Store a picture as a lossless PNG."""
        encoded = PNG.encode(picture, PNG.params(), self._work_item.inputs.source_bytes)
        return self._put_encoded(step, replace(encoded, result=result))

    def _put_encoded(self, step: PlannedStep, encoded: Encoded) -> Stored:
        return self._put(step, io.BytesIO(encoded.data), encoded.picture.size, encoded.result)

    def _put(
        self,
        step: PlannedStep,
        file: IO[bytes],
        size: Size | None = None,
        result: dict[str, Any] | None = None,
    ) -> Stored:
        """Put a file into object storage before any row of the database refers to the file.

        Raises ResultsTooLarge if the files of the job would take more space than the job may use.
        """
        key = artifact_key(self._work_item.inputs.owner, step.key, step.operation.extension)
        digest, length = hashlib.sha256(), 0
        file.seek(0)
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            length += len(chunk)
        bytes_left = self._work_item.inputs.bytes_left - self._stored_bytes
        if length > bytes_left:
            raise ResultsTooLarge(_too_large(length, bytes_left))
        self._stored_bytes += length
        file.seek(0)
        self._blobs.put(key, file, step.operation.media_type)
        width, height = size or (None, None)
        return Stored(
            step.key, key, step.operation.media_type, length, digest.hexdigest(), width, height, result,
        )  # fmt: skip


def _attempt(step: PlannedStep, make: Callable[[], Stored | None]) -> Succeeded | Failed:
    """Call `make`, and return the outcome of the step with the duration of the call."""
    started = time.perf_counter()
    try:
        stored = make()
    except PixToolsError as error:
        return Failed(step.name, error, _ms_since(started))
    except MemoryError:
        log.warning("out of memory: step=%s op=%s", step.name, step.operation.name)
        return Failed(step.name, OutOfMemory(_OUT_OF_MEMORY), _ms_since(started))
    except OSError as error:
        log.exception("step failed: step=%s op=%s", step.name, step.operation.name)
        return Failed(step.name, DiskFull(_DISK_FULL) if is_full(error) else PixToolsError(), _ms_since(started))
    except Exception:
        log.exception("step failed unexpectedly: step=%s op=%s", step.name, step.operation.name)
        return Failed(step.name, PixToolsError(), _ms_since(started))
    return Succeeded(step.name, stored, _ms_since(started))


def _too_large(length: int, bytes_left: int) -> str:
    return (
        f"The file has {length:,} bytes, but the files of this job may take only {max(0, bytes_left):,} bytes more "
        "(PIXTOOLS_MAX_JOB_BYTES). Send a job with fewer steps, smaller pictures or a lower quality."
    )


def _ms_since(started: float) -> int:
    return round((time.perf_counter() - started) * 1000)
