"""Runs the steps of a job in one process, without the service. Users import this module as `pixtools.pipeline`."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, assert_never

from dag.messages import ArtifactsWork, Inferred, Inputs, PixelsWork, SourceWork, StoredFile
from dag.plan import SOURCE, PartInfo, Plan, PlannedStep, Source
from dag.segment_run import run
from dag.segments import ArtifactsSegment, FileSegment, PixelsSegment, Segment, SourceSegment, plan_segments
from dag.specification import build
from dag.worker_messages import NotMade, WorkerMessage
from pixtools.denoising.dncnn import Weights, load_shipped, load_white
from pixtools.denoising.engine import Device, Effort, Engine, LastEngine, load_engines
from pixtools.denoising.restoration import Report, denoise
from pixtools.errors import Fault, PixToolsError, error_class
from pixtools.imaging.header import Header, inspect
from pixtools.imaging.picture import Picture, Size
from pixtools.limits import Limits
from pixtools.operations.base.kinds import BundleEntry, Bundler
from pixtools.operations.denoise import Denoise
from pixtools.settings import Settings

_MAX_STEPS: int = Settings.model_fields["max_steps"].default


def _default_limits() -> Limits:
    names = ("max_pixels", "max_side", "max_frames")
    return Limits(*(Settings.model_fields[name].default for name in names))


@dataclass(frozen=True)
class File:
    """The file of a step. `name` is the name of a download in the service, such as `photo-web.webp`.

    `width` and `height` are in pixels, and None if the file is no picture. `result` holds the values that the step
    reports, or None.
    """

    name: str
    media_type: str
    data: bytes
    width: int | None
    height: int | None
    result: dict[str, Any] | None


class Pipeline:
    """The steps of a job, to run on pictures in this process.

    The service makes files with the same code. Rounding may differ on another device, so denoised pixels may differ.
    Decoders run without a sandbox, and without limits of memory and time. So run a pipeline only on pictures that you
    trust.

    Only one thread may use a pipeline at a time. There are two networks: one for photos, and one for white noise. Each
    network is loaded for the first picture that needs it.
    """

    def __init__(
        self,
        steps: Mapping[str, Any],
        *,
        parts: Mapping[str, bytes] | None = None,
        limits: Limits | None = None,
        weights: Weights | None = None,
        device: Device = "auto",
        threads: int = 1,
    ) -> None:
        """`steps` is the document `steps` of the HTTP API. `parts` holds further files by name, such as a logo.

        Without `limits`, the default limits of a source apply, also to `parts`. `device` and `threads` are for the
        denoiser, and `threads` counts only on a CPU. `weights` replace the shipped weights for photos.
        """
        self._steps = steps
        self._parts = dict(parts or {})
        self._limits = limits or _default_limits()
        self._weights = weights
        self._device = device
        self._threads = threads
        self._engines: dict[bool, dict[Effort, Engine]] = {}  # True: the engines for white noise; False: for photos
        self._last_engine = LastEngine()

    def run(self, picture: bytes, name: str = "image") -> dict[str, File]:
        """Run all steps on the bytes of an image file. Return the files by the names of their steps.

        The names of the results begin with `name`, without its ending. Raises UnsupportedType, CorruptImage,
        ImageTooLarge, and InvalidPlan if `steps` has mistakes. Also raises the error of the first step that fails, with
        a note that names the step. An unexpected error becomes a PixToolsError, and its cause is in the log.
        """
        header = self._header(picture)
        parts = {part: self._part_info(data) for part, data in self._parts.items()}
        size = (header.width, header.height)
        source = Source(name, hashlib.sha256(picture).hexdigest(), size, header.frames, parts, header.media_type)
        plan = build(dict(self._steps), source, _MAX_STEPS, self._limits)
        return _Run(plan, picture, self._parts, self._denoise).files()

    def _header(self, data: bytes) -> Header:
        return inspect(io.BytesIO(data), self._limits)

    def _part_info(self, data: bytes) -> PartInfo:
        header = self._header(data)
        size = (header.width, header.height)
        return PartInfo(hashlib.sha256(data).hexdigest(), size, header.frames, header.media_type, len(data))

    def _denoise(self, pixels: Any, params: Denoise) -> tuple[Any, Report]:
        engines = self._engines.get(params.is_for_white_noise)
        if engines is None:
            weights = load_white() if params.is_for_white_noise else self._weights or load_shipped()
            engines = load_engines(weights, self._device, self._threads)
            self._engines[params.is_for_white_noise] = engines
        engine = engines[params.effort]
        self._last_engine.change_to(engine)
        return denoise(engine, pixels, params.blend, params.noise)


class _Run:
    """One run of a plan, with all blobs and files in memory (`dag.segment_run.SegmentIO`)."""

    def __init__(
        self,
        plan: Plan,
        picture: bytes,
        parts: Mapping[str, bytes],
        denoise: Callable[[Any, Denoise], tuple[Any, Report]],
    ) -> None:
        self._plan = plan
        self._parts = {name: f"part {name}" for name in parts}
        # By blob key. The key of a file is the name of its step, which contains no space.
        self._blobs = {SOURCE: picture, **{key: parts[name] for name, key in self._parts.items()}}
        self._denoise = denoise
        self._files: dict[str, File] = {}
        self._denoised: dict[str, Inferred] = {}

    def files(self) -> dict[str, File]:
        """Run all steps, and return their files in running order. Raises the error of the first step that fails."""
        inputs = Inputs("", SOURCE, len(self._blobs[SOURCE]), self._parts)
        work = self._plan.work(frozenset(), frozenset())
        # With one converter, each segment comes after the segments that make its pixels or its files.
        for segment in plan_segments(self._plan, work, converters=1):
            self._run(segment, inputs)
        return {step.name: self._files[step.name] for step in self._plan.steps if step.leaves_file}

    def _run(self, segment: Segment, inputs: Inputs) -> None:
        match segment:
            case SourceSegment():
                run(SourceWork(segment, inputs), None, self)
            case PixelsSegment():
                run(PixelsWork(segment, inputs), self._denoised.pop(segment.head), self)
            case ArtifactsSegment(step=step) if isinstance(step.operation, Bundler):
                self._bundle(step, step.operation)
            case ArtifactsSegment(step=step):
                files = tuple(StoredFile(self._file_name(name), name) for name in step.inputs)
                run(ArtifactsWork(segment, inputs, files), None, self)
            case FileSegment():
                raise AssertionError("no segment starts from the file of an inference, because every inference runs")
            case _:
                assert_never(segment)

    def _bundle(self, step: PlannedStep, operation: Bundler[Any]) -> None:
        entries = [BundleEntry(self._file_name(name), partial(io.BytesIO, self._blobs[name])) for name in step.inputs]
        out = io.BytesIO()
        operation.run(entries, out, step.params)
        self.put(step, out.getvalue(), None, None)

    def _file_name(self, name: str) -> str:
        return self._plan.source.name if name == SOURCE else self._plan.by_name[name].file_name

    def tell(self, message: WorkerMessage) -> None:
        """Raise the error of a step that has failed."""
        if isinstance(message, NotMade):
            kind = error_class(message.code) or PixToolsError
            error = kind(message.detail, tuple(Fault(pointer, detail) for pointer, detail in message.faults))
            error.add_note(f"The step `{message.step}` failed.")
            raise error

    def get(self, key: str) -> bytes:
        """Return a blob."""
        return self._blobs[key]

    def put(self, step: PlannedStep, file: bytes, size: Size | None, result: dict[str, Any] | None) -> None:
        """Keep the file of a step."""
        self._blobs[step.name] = file
        width, height = size or (None, None)
        self._files[step.name] = File(step.file_name, step.operation.media_type, file, width, height, result)

    def share(self, step: str, inference: str | None, shared: tuple[Any, Picture]) -> None:  # noqa: ARG002
        """Denoise a picture."""
        assert inference is not None  # noqa: S101 (with one converter, no two segments start from the same pixels)
        params = self._plan.by_name[inference].params
        assert isinstance(params, Denoise)  # noqa: S101 (there is no other inference)
        pixels, report = self._denoise(shared[0], params)
        self._denoised[inference] = Inferred(pixels, shared[1], report.as_result())
