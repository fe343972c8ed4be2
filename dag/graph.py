"""Runs a plan as a graph of Ray calls. Converters run the segments of the plan, and the denoiser runs the inferences.

Each segment is one converter call. The converter streams the outcome of each step. If another segment needs pixels, the
stream also contains these pixels. The dispatcher gets the ObjectRef of the pixels, passes it to the call of the other
segment, and never loads the pixels. That call reads the pixels from shared memory. `dag.segments` describes segments
and their heads. `dag.messages` describes the messages.

A stream costs much CPU time for each item. So the segments of several jobs share one call with one answer if they are
cheap. If such a call gives no answer, each of its segments runs again with a stream. Then the outcomes show which step
kills the converter.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Protocol, TypeVar, assert_never

from ray.exceptions import RayError, RayTaskError

from dag.converter_stream import ConverterAnswer, ConverterStream, HandOver, StreamEnded
from dag.messages import (
    ArtifactsWork,
    ConverterMessage,
    Decoded,
    FileWork,
    Inputs,
    PixelsWork,
    SourceWork,
    StoredFile,
    WorkItem,
)
from dag.plan import SOURCE, Plan, PlannedStep
from dag.run_time import RunTime
from dag.segment_memory import footprint
from dag.segments import (
    ArtifactsSegment,
    FileSegment,
    PixelsSegment,
    Segment,
    SourceSegment,
    cheap_cost_ms,
    plan_segments,
)
from pixtools import logs
from pixtools.errors import JobTimedOut, PixToolsError, StepTimedOut
from pixtools.jobs.outcomes import Crashed, Failed, Outcome, Started, Succeeded
from pixtools.operations.base.params import Params
from pixtools.retries import CONVERTER_CALL_TRIES

log = logging.getLogger(__name__)

T = TypeVar("T")


class Converters(Protocol):
    """The pool from which a graph borrows its converters."""

    async def acquire(self, memory_bytes: int) -> Any:
        """Wait for a converter on a node with `memory_bytes` left in its budget, and return the converter."""

    def release(self, converter: Any) -> None:
        """Return a healthy converter to the pool."""

    def discard(self, converter: Any) -> None:
        """End a converter, even if it is busy."""


class CheapCalls(Protocol):
    """Runs cheap work items. One converter call can run several of them."""

    async def run(
        self, work_item: WorkItem, memory_bytes: int, cost_ms: float, on_sent: Callable[[bool], None]
    ) -> Sequence[ConverterMessage] | None:
        """Run a work item, and return all messages of the converter. Return None if there is no answer.

        `cost_ms` is an estimate of the time that the converter needs.
        `on_sent` is called when the converter gets the work item. Its argument says whether the converter begins with
        this work item.
        """


class Denoiser(Protocol):
    """The client through which a graph runs its inferences."""

    async def run(self, pixels: Any, params: Params) -> Any:
        """Denoise a picture, and return the ObjectRef of an Inferred.

        `pixels` is the ObjectRef of a picture in the form that Picture.share returns.

        Raises PixToolsError if the inference failed, and RayError if the picture is lost.
        """


class Graph:
    """One attempt to run a plan.

    If a step fails, the steps that read it do not run and have no outcome in this attempt. All other steps run.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        inputs: Inputs,
        converters: Converters,
        denoiser: Denoiser,
        at_once: int,
        deadline_s: float,
        job_deadline_s: float,
        max_bytes: int,
        report: Callable[[Outcome], None],
        cheap_calls: CheapCalls | None = None,
        used_s: float = 0.0,
    ) -> None:
        """Bind a plan to converters and to a denoiser.

        Steps that start from the same picture are divided among at most `at_once` converters.
        Each item of a converter's stream must arrive within `deadline_s` seconds. All converter calls together may take
        `job_deadline_s` seconds. All artifacts of the job together may have `max_bytes` bytes, except that segments
        that run at the same time may exceed this limit (see Inputs). The graph calls `report` with each outcome.
        Without `cheap_calls`, all calls use streams. Earlier graphs of the attempt have used the converters for
        `used_s` seconds of the time of the job.
        """
        self._plan = plan
        self._inputs = inputs
        self._converters = converters
        self._denoiser = denoiser
        self._at_once = at_once
        self._deadline_s = deadline_s
        self._job_deadline_s = job_deadline_s
        self._max_bytes = max_bytes
        self._outcomes: dict[str, Outcome] = {}  # the last outcome of each step
        self._report_outcome = report
        self._cheap_calls = cheap_calls
        self._run_time = RunTime(job_deadline_s - used_s)
        self._tasks = asyncio.TaskGroup()
        self._bytes: dict[str, int] = {}  # the bytes of the job's artifacts, by step
        # Segments wait for these values. Another segment or an inference sets each value.
        # `_pixels`, by head: the ObjectRef of the head's pixels, the error that prevented these pixels, or None if
        # no pixels will follow.
        # `_blobs`, by step: the blob key of the step's file, or None if no file will follow.
        self._pixels: dict[str, asyncio.Future[Any]] = defaultdict(asyncio.Future)
        self._blobs: dict[str, asyncio.Future[str | None]] = defaultdict(asyncio.Future)
        self._inferences: set[str] = set()  # started inferences; `_infer` sets their entries in `_pixels`
        self._inference_ms: dict[str, int] = {}  # durations of ended inferences

    @property
    def used_s(self) -> float:
        """How long the converter calls of the attempt took together. It is up to date after `run`."""
        return self._job_deadline_s - self._run_time.left_s

    async def run(self, work: frozenset[str], blobs: Mapping[str, str], blob_bytes: Mapping[str, int]) -> None:
        """Run the steps of `work`. Return after the graph has reported the outcome of each step that could run.

        `blobs` holds the blob keys of existing files, and `blob_bytes` their sizes, by step name.
        """
        self._bytes |= blob_bytes
        for name, key in {SOURCE: self._inputs.source_key, **blobs}.items():
            self._blobs[name].set_result(key)
        try:
            async with self._run_time.limit(), self._tasks:
                for segment in plan_segments(self._plan, work, self._at_once):
                    self._tasks.create_task(self._run_segment(segment))
        except TimeoutError:  # an error of a task would be an ExceptionGroup
            self._fail_remaining(work)

    def _fail_remaining(self, work: frozenset[str]) -> None:
        """Report that the deadline of the job has passed, for each step of `work` that has not ended.

        Report nothing for steps that read a failed step. The store skips these steps, or tries them again together with
        the failed step.
        """
        error = JobTimedOut(_job_timeout_detail(self._job_deadline_s))
        without_result = {name for name, last in self._outcomes.items() if isinstance(last, Failed | Crashed)}
        for step in self._plan.steps:
            if step.name not in work or isinstance(self._outcomes.get(step.name), Succeeded | Failed | Crashed):
                continue
            if without_result.isdisjoint(step.inputs):
                self._report(Failed(step.name, error))
            without_result.add(step.name)

    def _report(self, outcome: Outcome) -> None:
        self._outcomes[outcome.step] = outcome
        self._report_outcome(outcome)

    def _inputs_of(self, segment: Segment) -> Inputs:
        """Return the inputs of a segment, with the number of bytes that the job may still store.

        Files of steps that run again do not count, because this segment replaces these files.
        """
        stored = sum(size for name, size in self._bytes.items() if name not in segment.names)
        return replace(self._inputs, bytes_left=self._max_bytes - stored)

    async def _run_segment(self, segment: Segment) -> None:
        try:
            match segment:
                case SourceSegment():
                    await self._call(SourceWork(segment, self._inputs_of(segment)))
                case PixelsSegment():
                    await self._run_on_pixels(segment)
                case FileSegment():
                    key = await self._blobs[segment.head]
                    if key is not None:
                        await self._call(FileWork(segment, self._inputs_of(segment), key))
                case ArtifactsSegment():
                    await self._run_on_artifacts(segment)
                case _:
                    assert_never(segment)
        finally:
            self._stop_waiting_for(segment)

    async def _run_on_pixels(self, segment: PixelsSegment) -> None:
        pixels = await self._pixels[segment.head]
        if isinstance(pixels, PixToolsError):
            for step in segment.steps:
                if segment.reads_head(step):
                    self._report(Failed(step.name, pixels))
        elif pixels is not None:
            await self._call(PixelsWork(segment, self._inputs_of(segment)), pixels)

    async def _run_on_artifacts(self, segment: ArtifactsSegment) -> None:
        files = []
        for name in segment.step.inputs:
            key = await self._blobs[name]
            if key is None:
                return
            file_name = self._plan.source.name if name == SOURCE else self._plan.by_name[name].file_name
            files.append(StoredFile(file_name, key))
        await self._call(ArtifactsWork(segment, self._inputs_of(segment), tuple(files)))

    def _stop_waiting_for(self, segment: Segment) -> None:
        """Tell waiting segments that `segment` has ended and will deliver no more values."""
        for name in segment.names:
            _resolve(self._blobs[name], None)
        for name in segment.offloaded:
            if name not in self._inferences:
                _resolve(self._pixels[name], None)
        if isinstance(segment, SourceSegment | FileSegment):
            _resolve(self._pixels[segment.head], None)

    async def _call(self, work_item: WorkItem, *pixels: Any) -> None:
        """Give a work item to a converter. If the converter sends no Started message, try another converter.

        Make at most three tries, and before them a cheap call if the work item allows it.
        """
        if not pixels and await self._call_cheaply(work_item):
            return
        for _ in range(CONVERTER_CALL_TRIES):
            if await self._try(work_item, pixels):
                return
        # Perhaps this work item kills every converter before the converter can send Started. Do not try it forever.
        self._report(Crashed(work_item.segment.steps[0].name))

    async def _call_cheaply(self, work_item: WorkItem) -> bool:
        """Run a work item in a call with one answer, if it is cheap. Return False if there is no answer."""
        cost = cheap_cost_ms(self._plan, work_item.segment)
        if self._cheap_calls is None or cost is None:
            return False
        with ExitStack() as stack:

            def on_sent(is_first: bool) -> None:  # noqa: FBT001
                stack.enter_context(self._run_time.call())
                if is_first:
                    self._report(Started(work_item.segment.steps[0].name))

            messages = await self._cheap_calls.run(work_item, self._footprint(work_item), cost, on_sent)
        if messages is None:
            return False
        progress = _Progress(work_item.segment, self._report)
        try:
            await self._follow(progress, ConverterAnswer(messages))
        except StreamEnded:  # the worker said that it had done its work, but it had not
            progress.blame(Crashed)
        return progress.began

    def _footprint(self, work_item: WorkItem) -> int:
        return footprint(self._plan, work_item.segment, self._inputs.source_bytes)

    async def _try(self, work_item: WorkItem, pixels: tuple[Any, ...]) -> bool:
        """Give a work item to a converter. Return False if the converter died or was silent before it sent Started."""
        progress = _Progress(work_item.segment, self._report)
        converter = await self._converters.acquire(self._footprint(work_item))
        try:
            with self._run_time.call():
                items = converter.run.options(num_returns="streaming").remote(work_item, *pixels)
                await self._follow(progress, ConverterStream(items, self._deadline_s))
        except RayTaskError as error:
            self._converters.release(converter)
            if isinstance(error.cause, RayError):
                self._report_lost_pixels(work_item.segment)
                return True
            # A converter reports errors of steps as outcomes, so an exception of the call itself is a bug.
            log.exception("converter call failed")
            progress.fail_all(PixToolsError())
        except (RayError, StreamEnded):
            self._converters.discard(converter)
            progress.blame(Crashed)
        except TimeoutError:
            self._converters.discard(converter)
            progress.blame(lambda step: Failed(step, StepTimedOut(_timeout_detail(self._deadline_s))))
        except BaseException:
            # The task was cancelled, because nobody needs the outcomes or because the job has passed its deadline. Stop
            # the converter.
            self._converters.discard(converter)
            raise
        else:
            self._converters.release(converter)
        return progress.began

    def _report_lost_pixels(self, segment: Segment) -> None:
        """Report a crash of the inference whose result pixels were lost before the converter call began.

        Lost pixels of the source need no report. The steps that need them get no outcome, so the job returns to the
        queue, and the next attempt decodes the source again.
        """
        if isinstance(segment, PixelsSegment) and segment.head != SOURCE:
            self._report(Crashed(segment.head))

    async def _follow(self, progress: _Progress, events: ConverterStream | ConverterAnswer) -> None:
        """Process the events of a converter call until the last step has its outcome."""
        while progress.left:
            event = await events.next_event()
            match event:
                case Started():
                    progress.begin()
                case Decoded():
                    progress.decoded = True
                case HandOver():
                    self._hand_over(progress, event)
                case Succeeded():
                    # A step that runs again for its pixels may already have a blob key. `_resolve` keeps this key.
                    _resolve(self._blobs[event.step], event.stored.blob_key if event.stored else None)
                    if event.stored:
                        self._bytes[event.step] = event.stored.bytes
                    inference_ms = self._inference_ms.get(event.step, 0)
                    progress.take(replace(event, run_ms=event.run_ms + inference_ms))
                case Failed():
                    if progress.is_decoding and isinstance(progress.segment, SourceSegment | FileSegment):
                        _resolve(self._pixels[progress.segment.head], event.error)
                    progress.take(event)
                case _:
                    assert_never(event)

    def _hand_over(self, progress: _Progress, event: HandOver) -> None:
        """Pass pixels on to the segments that start from these pixels, or to the denoiser."""
        if event.inference is None:
            _resolve(self._pixels[event.step], event.pixels)
            return
        self._inferences.add(event.inference)
        self._tasks.create_task(self._infer(self._plan.by_name[event.inference], event.pixels))
        progress.remove({event.inference})

    async def _infer(self, step: PlannedStep, pixels: Any) -> None:
        """Run an inference, and pass the denoised pixels on to the segments that start from these pixels.

        One of these segments stores the result and reports the success.
        """
        started, result = time.monotonic(), None
        self._report(Started(step.name))
        try:
            with logs.about(step=step.name, op=step.operation.name):
                result = await self._denoiser.run(pixels, step.params)
        except PixToolsError as error:
            self._report(Failed(step.name, error, _ms_since(started)))
        except RayError:
            self._report(Crashed(step.name))
        finally:
            self._inference_ms[step.name] = _ms_since(started)
            _resolve(self._pixels[step.name], result)


def _resolve(future: asyncio.Future[T], value: T) -> None:
    """Set the value of a future unless it is done. A future is also done if the task that awaited it was cancelled."""
    if not future.done():
        future.set_result(value)


def _ms_since(started: float) -> int:
    return round((time.monotonic() - started) * 1000)


def _timeout_detail(deadline_s: float) -> str:
    return f"The step did not end within {deadline_s:g} seconds. Use a smaller picture or a lower `effort`."


def _job_timeout_detail(deadline_s: float) -> str:
    return (
        f"The steps of this job may run on converters for {deadline_s:g} seconds together (PIXTOOLS_JOB_DEADLINE). "
        "Send jobs with fewer steps or smaller pictures, or redrive this step to run it with a new deadline."
    )


class _Progress:
    """The remaining steps of a converter call. Steps run in order, so the first remaining step is running."""

    def __init__(self, segment: Segment, report: Callable[[Outcome], None]) -> None:
        self.segment = segment
        self.left = list(segment.steps)
        self.began = False
        self.decoded = isinstance(segment, PixelsSegment | ArtifactsSegment)  # these segments decode nothing
        self._report = report

    @property
    def is_decoding(self) -> bool:
        """Whether the converter is decoding the head's pixels. All steps that read the head wait for these pixels."""
        return not self.decoded and self.left[0].reads_pixels

    def begin(self) -> None:
        """Report the start of the first step."""
        self.began = True
        self._report(Started(self.left[0].name))

    def take(self, outcome: Succeeded | Failed) -> None:
        """Report an outcome and the start of the next step. Steps that read a failed step do not run."""
        self._report(outcome)
        removed = {outcome.step}
        if isinstance(outcome, Failed):
            for step in self.left:
                if removed.intersection(step.inputs):
                    removed.add(step.name)
        self.remove(removed)

    def remove(self, names: set[str]) -> None:
        """Remove steps that this call will not run any more, and report the start of the next step."""
        self.left = [step for step in self.left if step.name not in names]
        if self.left:
            self._report(Started(self.left[0].name))

    def blame(self, outcome: Callable[[str], Outcome]) -> None:
        """Report `outcome` for the running step. During decoding, report `outcome` for all steps that read the head.

        If the converter sent no Started message, report nothing, because no step caused the failure.
        """
        if self.began:
            readers = [step for step in self.left if self.segment.reads_head(step)]
            for step in readers if self.is_decoding else self.left[:1]:
                self._report(outcome(step.name))

    def fail_all(self, error: PixToolsError) -> None:
        """Report `error` for all remaining steps."""
        self.began = True
        for step in self.left:
            self._report(Failed(step.name, error))
