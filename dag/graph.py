"""Plan → graph on Ray: segments bound to converters, chained by their ObjectRefs.

A segment is one call of a converter that streams what came of each step. Pixels that another segment needs
leave the call as an ObjectRef and reach the next call through shared memory, unseen by the dispatcher; being items
of a stream that it asked for, they are its own, and outlive the converter that made them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

from ray.exceptions import RayError, RayTaskError

from dag.plan import SOURCE, Plan, Step
from dag.segment_memory import footprint
from dag.segments import Decoded, HandedOn, Inputs, Order, Segment, segments
from pixtools.errors import PixToolsError, StepTimedOut
from pixtools.jobs.outcomes import Began, Crashed, Done, Failed, Outcome
from pixtools.operations.base.kinds import Params

log = logging.getLogger(__name__)

_TRIES = 3  # of one order, at converters that turn out to have died while they stood idle


class Converters(Protocol):
    """Where a graph gets its converters; `discard` ends one whatever it is doing."""

    @property
    def idle(self) -> int: ...
    async def acquire(self, memory_bytes: int) -> Any: ...
    def release(self, converter: Any) -> None: ...
    def discard(self, converter: Any) -> None: ...


class Denoiser(Protocol):
    """Where a graph has its inferences run.

    `run` takes the reference to a picture in shared memory (see Picture.share) and returns one to what was made of it
    (Inferred); it raises PixToolsError, and RayError where the picture itself is lost.
    """

    async def run(self, pixels: Any, params: Params) -> Any: ...


class Graph:
    """One attempt at a plan: `run` returns when each step of `work` that could run has been reported on.

    A step that fails takes with it only what reads it; of those steps nothing is reported.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        inputs: Inputs,
        converters: Converters,
        denoiser: Denoiser,
        deadline_s: float,
        report: Callable[[Outcome], None],
    ) -> None:
        self._plan = plan
        self._inputs = inputs
        self._converters = converters
        self._denoiser = denoiser
        self._deadline_s = deadline_s
        self._report = report
        self._tasks = asyncio.TaskGroup()
        # What segments wait for of each other: the ObjectRef of each head's pixels, the error that kept them from
        # being decoded, or None; and the blob key of each artifact, or None where there will be none.
        self._pixels: dict[str, asyncio.Future[Any]] = defaultdict(asyncio.Future)
        self._blobs: dict[str, asyncio.Future[str | None]] = defaultdict(asyncio.Future)
        self._inferred_ms: dict[str, int] = {}

    async def run(self, work: frozenset[str], blobs: Mapping[str, str]) -> None:
        """Run `work`; `blobs` are the artifacts that exist already, as blob keys by step."""
        for name, key in {SOURCE: self._inputs.source_key, **blobs}.items():
            self._blobs[name].set_result(key)
        async with self._tasks:
            for segment in segments(self._plan, work, max(1, self._converters.idle)):
                self._tasks.create_task(self._follow(segment))

    async def _follow(self, segment: Segment) -> None:
        try:
            if segment.bundles:
                await self._bundle(segment)
            elif segment.imports:
                await self._import(segment)
            elif segment.head != SOURCE:
                await self._reread(segment)
            else:
                await self._call(segment)
        finally:
            # Whatever happened, nobody waits for this segment any longer.
            for name in segment.names:
                if not self._blobs[name].done():
                    self._blobs[name].set_result(None)
            awaited = [segment.head] if segment.exports else []
            for name in (*awaited, *segment.handed_on):
                if not self._pixels[name].done() and name not in self._inferred_ms:
                    self._pixels[name].set_result(None)

    async def _bundle(self, segment: Segment) -> None:
        entries = []
        for name in segment.steps[0].inputs:
            key = await self._blobs[name]
            if key is None:
                return
            entries.append((self._file_name(name), key))
        await self._call(segment, tuple(entries))

    async def _reread(self, segment: Segment) -> None:
        """Begin with the file that an inference left in an earlier attempt, or for another job."""
        key = await self._blobs[segment.head]
        if key is not None:
            await self._call(segment, ((self._file_name(segment.head), key),))

    async def _import(self, segment: Segment) -> None:
        pixels = await self._pixels[segment.head]
        if isinstance(pixels, PixToolsError):
            for step in segment.steps:
                if segment.reads_head(step):
                    self._report(Failed(step.name, pixels))
        elif pixels is not None:
            await self._call(segment, (), pixels)

    async def _call(self, segment: Segment, entries: tuple[tuple[str, str], ...] = (), *pixels: Any) -> None:
        order = Order(segment, self._inputs, entries)
        for _ in range(_TRIES):
            if await self._try(_Call(segment, self._report), order, pixels):
                return
        # Bad luck once; but what kills converters before they can say a word must not be tried for ever.
        self._report(Crashed(segment.names[0]))

    async def _try(self, call: _Call, order: Order, pixels: tuple[Any, ...]) -> bool:
        """Let a converter carry out the order; say whether one began to."""
        needed = footprint(self._plan, order.segment, self._inputs.source_bytes)
        converter = await self._converters.acquire(needed)
        try:
            await self._stream(call, converter.run.options(num_returns="streaming").remote(order, *pixels))
        except RayTaskError as error:
            self._converters.release(converter)
            if isinstance(error.cause, RayError):
                # The pixels were lost before the call could begin: those of a converter with it, and it is blamed.
                if call.segment.head != SOURCE:
                    self._report(Crashed(call.segment.head))
                return True
            # A converter reports what goes wrong with a step; that it raised is a fault of ours.
            log.exception("converter call failed")
            call.give_up(PixToolsError())
        except (RayError, StopAsyncIteration):  # the latter where it died between a word and what was to follow it
            self._converters.discard(converter)
            call.end(Crashed)
        except TimeoutError:
            self._converters.discard(converter)
            call.end(lambda step: Failed(step, StepTimedOut(_too_slow(self._deadline_s))))
        except BaseException:
            # Cancelled in the middle: nobody wants what the converter is making.
            self._converters.discard(converter)
            raise
        else:
            self._converters.release(converter)
        return call.began

    async def _stream(self, call: _Call, stream: Any) -> None:
        while call.left:
            async with asyncio.timeout(self._deadline_s):
                item = await (await anext(stream))
            match item:
                case Began():
                    call.begin()
                case Decoded():
                    call.decoded = True
                    if call.segment.exports:
                        self._pixels[call.segment.head].set_result(await self._next(stream))
                case HandedOn(step=name):
                    step, pixels = self._plan.by_name[name], await self._next(stream)
                    self._inferred_ms[name] = 0
                    self._tasks.create_task(self._infer(step, pixels))
                    call.hand_on(name)
                case Done(step=step, stored=stored):
                    if not self._blobs[step].done():  # else it ran for its pixels, and its file is there
                        self._blobs[step].set_result(stored.blob_key if stored else None)
                    call.take(replace(item, run_ms=item.run_ms + self._inferred_ms.get(step, 0)))
                case Failed(error=error):
                    pixels = self._pixels[call.segment.head]
                    if call.segment.exports and call.is_decoding and not pixels.done():
                        pixels.set_result(error)
                    call.take(item)

    async def _next(self, stream: Any) -> Any:
        """Return the reference to the pixels that come next, which stay where they are."""
        async with asyncio.timeout(self._deadline_s):
            return await anext(stream)

    async def _infer(self, step: Step, pixels: Any) -> None:
        """Have an inference run, and give its result to the segments that it heads, which report it as done."""
        started, result = time.monotonic(), None
        self._report(Began(step.name))
        try:
            result = await self._denoiser.run(pixels, step.params)
        except PixToolsError as error:
            self._report(Failed(step.name, error, _since(started)))
        except RayError:
            self._report(Crashed(step.name))
        finally:
            self._inferred_ms[step.name] = _since(started)
            if not self._pixels[step.name].done():  # cancelled with those who waited for it
                self._pixels[step.name].set_result(result)

    def _file_name(self, name: str) -> str:
        return self._plan.source.name if name == SOURCE else self._plan.by_name[name].file_name


def _since(started: float) -> int:
    return round((time.monotonic() - started) * 1000)


def _too_slow(deadline_s: float) -> str:
    return f"It was not done after {deadline_s:g} seconds. Make the picture smaller, or ask for less effort."


class _Call:
    """Where a converter is in its segment: it makes the steps in order, so the first one left is at work."""

    def __init__(self, segment: Segment, report: Callable[[Outcome], None]) -> None:
        self.segment = segment
        self.left = list(segment.steps)
        self.began = False
        self.decoded = segment.bundles or segment.imports
        self._report = report

    @property
    def is_decoding(self) -> bool:
        return not self.decoded and self.left[0].reads_pixels

    def begin(self) -> None:
        self.began = True
        self._report(Began(self.left[0].name))

    def take(self, outcome: Done | Failed) -> None:
        self._report(outcome)
        gone = {outcome.step}
        if isinstance(outcome, Failed):
            for step in self.left:
                if gone.intersection(step.inputs):
                    gone.add(step.name)
        self._go_on_without(gone)

    def hand_on(self, name: str) -> None:
        self._go_on_without({name})

    def _go_on_without(self, gone: set[str]) -> None:
        self.left = [step for step in self.left if step.name not in gone]
        if self.left:
            self._report(Began(self.left[0].name))

    def end(self, outcome: Callable[[str], Outcome]) -> None:
        """Report the end of a call on the step at work, or on all that wanted the pixels being decoded.

        A converter that was dead before it began says nothing about the steps.
        """
        if self.began:
            readers = [step for step in self.left if self.segment.reads_head(step)]
            blamed = readers if self.is_decoding else self.left[:1]
            for step in blamed:
                self._report(outcome(step.name))

    def give_up(self, error: PixToolsError) -> None:
        self.began = True
        for step in self.left:
            self._report(Failed(step.name, error))
