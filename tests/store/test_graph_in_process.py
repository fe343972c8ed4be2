"""A graph with real storage. Its converters and its denoiser are objects in this process."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from denoisers import Plain
from images import LIMITS, camera_jpeg
from ray.exceptions import ActorDiedError, ObjectLostError

from actors.converter import Converter
from dag.graph import Graph
from dag.messages import ConverterMessage, Inferred, Inputs, WorkItem
from dag.plan import Plan, Source
from dag.specification import build
from pixtools.blob_store import BlobStore
from pixtools.denoising.restoration import denoise
from pixtools.errors import DenoiserDown, JobTimedOut, ResultsTooLarge
from pixtools.imaging.picture import Size
from pixtools.jobs.outcomes import Crashed, Failed, Outcome, Started, Succeeded
from pixtools.operations.base.params import Params
from pixtools.retries import CONVERTER_CALL_TRIES
from pixtools.settings import Settings

pytestmark = pytest.mark.anyio


class LocalConverter:
    """A converter in this process. Like an actor, it runs each call to its end, even if nobody reads the rest."""

    def __init__(self, settings: Settings) -> None:
        self._converter = Converter(settings)
        self._converter._worker.wait_until_ready()  # the start must not use the time of a job
        self._items: Iterator[Any] = iter(())

    def run(self, work_item: WorkItem, pixels: Any = None) -> Iterator[Any]:
        for _ in self._items:
            pass
        self._items = self._converter.run(work_item, pixels)
        return self._items

    def close(self) -> None:
        self._converter.close()


class Stream:
    """An async generator with the methods of Ray's ObjectRefGenerator. Its next item is always ready."""

    def __init__(self, items: AsyncIterator[Any]) -> None:
        self._items = items

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Any:
        return await anext(self._items)

    def next_ready(self) -> bool:
        return True


def as_stream(generator: Callable[..., AsyncIterator[Any]]) -> Callable[..., Stream]:
    @functools.wraps(generator)
    def make(*arguments: Any) -> Stream:
        return Stream(generator(*arguments))

    return make


class LocalConverters:
    """A pool of one converter in this process. The pool has the methods that a graph calls on an actor handle."""

    def __init__(self, converter: LocalConverter) -> None:
        self._converter = converter
        self._busy = asyncio.Lock()
        self.run = self

    async def acquire(self, memory_bytes: int) -> LocalConverters:  # noqa: ARG002
        await self._busy.acquire()
        return self

    def release(self, converter: Any) -> None:  # noqa: ARG002
        self._busy.release()

    def discard(self, converter: Any) -> None:  # noqa: ARG002
        self._busy.release()

    def options(self, **_: object) -> LocalConverters:
        return self

    @as_stream
    async def remote(self, work_item: WorkItem, *pixels: Any) -> AsyncIterator[asyncio.Future[Any]]:
        for item in self._converter.run(work_item, *[await ref for ref in pixels]):
            ref: asyncio.Future[Any] = asyncio.Future()
            ref.set_result(item)
            yield ref
            await asyncio.sleep(0)


class SlowConverters(LocalConverters):
    """A pool whose converters wait after each item. `discarded` counts the converters that were stopped."""

    pause_s = 1.0
    discarded = 0

    @as_stream
    async def remote(self, work_item: WorkItem, *pixels: Any) -> AsyncIterator[asyncio.Future[Any]]:
        async for ref in super().remote(work_item, *pixels):
            yield ref
            await asyncio.sleep(self.pause_s)

    def discard(self, converter: Any) -> None:  # noqa: ARG002
        self.discarded += 1


class DeadConverters(LocalConverters):
    """A pool whose converters died while they were idle. `calls` counts the calls to all converters."""

    calls = 0

    @as_stream
    async def remote(self, work_item: WorkItem, *pixels: Any) -> AsyncIterator[asyncio.Future[Any]]:  # noqa: ARG002
        self.calls += 1
        raise ActorDiedError
        yield


class LocalDenoiser:
    """A denoiser in this process. The network has random weights, so each result differs from its input."""

    def __init__(self) -> None:
        self.pictures = 0
        self.failure: Exception | None = None
        self.delay_s = 0.0

    async def run(self, pixels: asyncio.Future[Any], params: Params) -> asyncio.Future[Any]:
        self.pictures += 1
        if self.failure:
            raise self.failure
        await asyncio.sleep(self.delay_s)
        frames, rest = await pixels
        made, report = denoise(Plain(), frames, params.blend)
        inferred: asyncio.Future[Any] = asyncio.Future()
        inferred.set_result(Inferred(made, rest, report.as_result()))
        return inferred


Runner = Callable[..., Any]

LARGE, SMALL = (6000, 4000), (600, 400)
"""Sizes that a test declares for the source. With the large one, no segment is cheap, so each call is a stream."""


@pytest.fixture(scope="module")
def converter(settings) -> Iterator[LocalConverter]:
    """One converter for all tests, because the start of its worker takes a second."""
    converter = LocalConverter(settings)
    yield converter
    converter.close()


@pytest.fixture
def run(settings, converter) -> Runner:
    """Return a function that runs the steps of a document and returns the outcome of each step.

    `stored` are the blob keys of steps that already have a file. Such a step may run again, for its pixels.
    """
    blobs, owner, source = BlobStore(settings), uuid.uuid4().hex, camera_jpeg()
    denoiser = LocalDenoiser()
    sha256 = hashlib.sha256(source).hexdigest()
    blobs.put(f"sources/{sha256}", source, "image/jpeg")

    async def run(
        document: dict[str, Any],
        *,
        stored: dict[str, str] | None = None,
        at_once: int = 1,
        converters: LocalConverters | None = None,
        job_deadline_s: float = 20,
        max_bytes: int = 10**9,
        blob_bytes: dict[str, int] | None = None,
        size: Size = LARGE,
        cheap_calls: CheapAnswers | None = None,
    ) -> dict[str, Outcome]:
        plan: Plan = build(document, Source("IMG_1.jpg", sha256, size), 50, LIMITS)
        run.reported = reported = []  # type: ignore[attr-defined]
        graph = Graph(
            plan,
            inputs=Inputs(owner, f"sources/{sha256}", len(source)),
            converters=converters or LocalConverters(converter),
            denoiser=denoiser,
            at_once=at_once,
            deadline_s=10,
            job_deadline_s=job_deadline_s,
            max_bytes=max_bytes,
            report=reported.append,
            cheap_calls=cheap_calls,
        )
        async with asyncio.timeout(60):  # some tests wait for 18 s
            done = frozenset(stored or {})
            await graph.run(plan.work(done, frozenset(), filed=done), stored or {}, blob_bytes or {})
        return {item.step: item for item in reported if not isinstance(item, Started)}

    run.denoiser = denoiser  # type: ignore[attr-defined]
    return run


KEPT = {
    "t": {"op": "resize", "input": "source", "width": 48, "keep": True},
    "a": {"op": "png", "input": "t"},
    "z": {"op": "zip", "input": ["t", "a"]},
}


@pytest.mark.parametrize("at_once", [1, 4])
async def test_each_step_is_reported_as_succeeded(run, at_once):
    document = KEPT | {"b": {"op": "png", "input": "source"}, "c": {"op": "webp", "input": "source"}}

    outcomes = await run(document, at_once=at_once)

    assert outcomes.keys() == document.keys()
    assert {type(outcome) for outcome in outcomes.values()} == {Succeeded}


async def test_a_transform_with_a_stored_file_runs_again_for_the_readers_of_its_pixels(run):
    first = await run(KEPT)

    again = await run(KEPT, stored={"t": first["t"].stored.blob_key})

    assert {type(outcome) for outcome in again.values()} == {Succeeded}
    assert {"a", "z"} <= again.keys()
    assert again["z"].stored.sha256 == first["z"].stored.sha256


async def test_a_bundle_of_stored_files_runs_alone(run):
    first = await run(KEPT)

    again = await run(KEPT, stored={name: first[name].stored.blob_key for name in ("t", "a")})

    assert again.keys() == {"z"}


async def test_a_bundle_of_the_source_alone_holds_the_source(run):
    outcomes = await run({"z": {"op": "zip", "input": "source"}})

    assert outcomes["z"].stored.bytes > 2_000


CLEANED = {
    "d": {"op": "denoise", "input": "source"},
    "a": {"op": "png", "input": "d"},
    "b": {"op": "webp", "input": "d", "lossless": True},
    "c": {"op": "jpg", "input": "source"},
    "z": {"op": "zip", "input": ["d", "a", "b"]},
}


@pytest.mark.parametrize("at_once", [1, 4])
async def test_an_inference_runs_between_the_steps_before_and_after_it(run, at_once):
    outcomes = await run(CLEANED, at_once=at_once)

    assert outcomes.keys() == CLEANED.keys()
    assert {type(outcome) for outcome in outcomes.values()} == {Succeeded}
    assert run.denoiser.pictures == 1
    assert outcomes["d"].stored.result["sigma"] >= 0
    assert outcomes["a"].stored.sha256 != outcomes["c"].stored.sha256


@pytest.mark.parametrize("at_once", [1, 4])
async def test_an_inference_with_a_stored_file_does_not_run_again_for_new_readers(run, at_once):
    first = await run(CLEANED)

    again = await run(CLEANED, stored={"d": first["d"].stored.blob_key}, at_once=at_once)

    assert run.denoiser.pictures == 1
    assert again.keys() == CLEANED.keys() - {"d"}
    for name in ("a", "b", "z"):
        assert again[name].stored.sha256 == first[name].stored.sha256, name


async def test_an_inference_of_an_inference_runs_after_it(run):
    document = CLEANED | {"e": {"op": "denoise", "input": "d"}, "f": {"op": "resize", "input": "e", "width": 20}}

    outcomes = await run(document)

    assert {type(outcome) for outcome in outcomes.values()} == {Succeeded}
    assert run.denoiser.pictures == 2
    assert (outcomes["f"].stored.width, outcomes["e"].stored.width) == (20, outcomes["d"].stored.width)


async def test_a_denoiser_that_is_down_fails_its_step_and_the_others_run(run):
    run.denoiser.failure = DenoiserDown("no replica")

    outcomes = await run(CLEANED)

    assert isinstance(outcomes["c"], Succeeded)
    assert isinstance(outcomes["d"], Failed)
    assert outcomes["d"].error is run.denoiser.failure
    assert outcomes.keys() == {"c", "d"}, "the readers of a failed step have no outcome"


async def test_a_picture_that_is_lost_on_the_way_to_the_denoiser_is_a_crash_of_its_step(run):
    run.denoiser.failure = ObjectLostError("00", None, "")

    outcomes = await run(CLEANED)

    assert outcomes == {"c": outcomes["c"], "d": Crashed("d")}


async def test_if_each_converter_dies_before_it_begins_the_first_step_is_blamed(run, converter):
    converters = DeadConverters(converter)

    outcomes = await run({"d": CLEANED["d"], "a": CLEANED["a"]}, converters=converters)

    assert outcomes == {"d": Crashed("d")}
    assert converters.calls == CONVERTER_CALL_TRIES


async def test_the_time_of_an_inference_is_part_of_the_time_of_its_step(run):
    run.denoiser.delay_s = 0.3

    outcomes = await run(CLEANED)

    assert outcomes["d"].run_ms >= 300


ROW = {name: {"op": "png", "input": "source", "resize": {"width": width}} for width, name in enumerate("abcdef", 20)}


async def test_steps_that_have_not_ended_at_the_deadline_of_the_job_fail_and_the_others_stay(run, converter):
    converters = SlowConverters(converter)
    document = ROW | {"z": {"op": "zip", "input": ["a", "f"]}}

    outcomes = await run(document, converters=converters, job_deadline_s=5.5)

    done = [name for name, outcome in outcomes.items() if isinstance(outcome, Succeeded)]
    late = {name: outcome.error for name, outcome in outcomes.items() if isinstance(outcome, Failed)}
    assert "a" in done
    assert late.keys() == ROW.keys() - done
    assert {(type(error), error.retryable, error.status) for error in late.values()} == {(JobTimedOut, False, 504)}
    assert all("PIXTOOLS_JOB_DEADLINE" in error.detail for error in late.values())
    assert "z" not in outcomes, "the store skips a step that reads a failed step"
    assert converters.discarded == 1


async def test_a_job_whose_steps_share_its_time_on_several_converters_ends_at_the_deadline_too(run, converter):
    converters = SlowConverters(converter)
    document = {
        name: {"op": "avif", "input": "source", "speed": 0, "quality": at} for at, name in enumerate("abcd", 50)
    }

    outcomes = await run(document, converters=converters, at_once=4, job_deadline_s=1)

    assert outcomes.keys() == document.keys()
    assert JobTimedOut in {type(outcome.error) for outcome in outcomes.values() if isinstance(outcome, Failed)}


async def test_waiting_for_the_denoiser_does_not_use_the_time_of_the_job(run):
    run.denoiser.delay_s = 9

    outcomes = await run(CLEANED, job_deadline_s=8)

    assert {type(outcome) for outcome in outcomes.values()} == {Succeeded}


async def test_waiting_for_a_converter_does_not_use_the_time_of_the_job(run, converter):
    class BusyConverters(LocalConverters):
        async def acquire(self, memory_bytes: int) -> LocalConverters:
            await asyncio.sleep(9)
            return await super().acquire(memory_bytes)

    outcomes = await run(KEPT, converters=BusyConverters(converter), job_deadline_s=8)

    assert {type(outcome) for outcome in outcomes.values()} == {Succeeded}


class CheapAnswers:
    """Runs cheap work items on a converter in this process. `is_down`: there is no answer."""

    def __init__(self, converter: LocalConverter) -> None:
        self._converter = converter
        self.calls = 0
        self.is_down = False
        self.is_first = True
        self.messages: int | None = None  # how many messages an answer has; None: all

    async def run(
        self,
        work_item: WorkItem,
        memory_bytes: int,  # noqa: ARG002
        cost_ms: float,
        on_sent: Callable[[bool], None],
    ) -> list[ConverterMessage] | None:  # fmt: skip
        assert 0 < cost_ms < 1000
        self.calls += 1
        on_sent(self.is_first)
        await asyncio.sleep(0.3)
        return None if self.is_down else list(self._converter.run(work_item))[: self.messages]


@pytest.fixture
def cheap_calls(converter) -> CheapAnswers:
    return CheapAnswers(converter)


CHEAP = {"b": {"op": "png", "input": "source"}, "t": KEPT["t"], "a": KEPT["a"], "m": {"op": "metadata", "input": "b"}}


@pytest.mark.parametrize("is_first", [True, False])
async def test_a_cheap_segment_gets_one_answer(run, cheap_calls, is_first):
    cheap_calls.is_first = is_first

    outcomes = await run(CHEAP, size=SMALL, cheap_calls=cheap_calls)

    assert {name: type(outcome) for name, outcome in outcomes.items()} == dict.fromkeys(CHEAP, Succeeded)
    assert cheap_calls.calls == 1  # step m reads a file, so it has a call of its own
    begun = set()
    for outcome in run.reported:
        assert isinstance(outcome, Started) or outcome.step in begun
        begun.add(outcome.step)


async def test_a_segment_that_is_not_cheap_uses_a_stream(run, cheap_calls):
    await run(CHEAP, size=LARGE, cheap_calls=cheap_calls)

    assert cheap_calls.calls == 0


async def test_a_step_that_fails_in_a_cheap_segment_fails_alone(run, cheap_calls):
    outcomes = await run(ROW, size=SMALL, cheap_calls=cheap_calls, max_bytes=2_000)

    assert isinstance(outcomes["a"], Succeeded)
    assert isinstance(outcomes["f"].error, ResultsTooLarge)


async def test_a_cheap_segment_without_an_answer_runs_again_with_a_stream(run, cheap_calls):
    cheap_calls.is_down = True

    outcomes = await run(CHEAP, size=SMALL, cheap_calls=cheap_calls)

    assert {name: type(outcome) for name, outcome in outcomes.items()} == dict.fromkeys(CHEAP, Succeeded)
    assert not any(isinstance(outcome, Crashed) for outcome in run.reported), "no step is blamed for the first try"


@pytest.mark.parametrize(("messages", "blamed"), [(1, 2), (3, 1)])
async def test_if_an_answer_is_incomplete_the_running_step_has_crashed(run, cheap_calls, messages, blamed):
    """With one message, the converter was decoding the picture, which two steps read."""
    cheap_calls.messages = messages

    outcomes = await run({"b": CHEAP["b"], "t": CHEAP["t"], "a": CHEAP["a"]}, size=SMALL, cheap_calls=cheap_calls)

    assert sum(isinstance(outcome, Crashed) for outcome in outcomes.values()) == blamed


async def test_a_cheap_call_uses_the_time_of_the_job(run, cheap_calls):
    outcomes = await run({"b": CHEAP["b"]}, size=SMALL, cheap_calls=cheap_calls, job_deadline_s=0.1)

    assert isinstance(outcomes["b"].error, JobTimedOut)


@pytest.mark.parametrize("step", ["f", "z"])
async def test_a_file_that_no_longer_fits_the_job_is_not_stored(run, step):
    document = ROW | {"z": {"op": "zip", "input": list(ROW)}}
    sizes = {name: outcome.stored.bytes for name, outcome in (await run(document)).items()}
    last = list(sizes).index(step)  # the last step whose file does not fit by one byte
    max_bytes = sum(list(sizes.values())[: last + 1]) - 1

    outcomes = await run(document, max_bytes=max_bytes)

    assert [name for name, outcome in outcomes.items() if isinstance(outcome, Succeeded)] == list(sizes)[:last]
    error = outcomes[step].error
    assert (type(error), error.retryable, error.status) == (ResultsTooLarge, False, 422)
    assert "PIXTOOLS_MAX_JOB_BYTES" in error.detail


async def test_files_of_earlier_attempts_count(run):
    document = {name: ROW[name] for name in "ab"}
    first = await run(document)
    stored, size = {"a": first["a"].stored.blob_key}, first["b"].stored.bytes

    enough = await run(document, stored=stored, blob_bytes={"a": 1_000}, max_bytes=1_000 + size)
    too_little = await run(document, stored=stored, blob_bytes={"a": 1_000}, max_bytes=1_000 + size - 1)

    assert isinstance(enough["b"], Succeeded)
    assert isinstance(too_little["b"].error, ResultsTooLarge)


async def test_a_file_that_is_made_again_for_its_pixels_counts_only_once(run):
    first = await run(KEPT)
    sizes = {name: outcome.stored.bytes for name, outcome in first.items()}

    again = await run(
        KEPT,
        stored={"t": first["t"].stored.blob_key},
        blob_bytes={"t": sizes["t"]},
        max_bytes=sum(sizes.values()),
    )

    assert {type(outcome) for outcome in again.values()} == {Succeeded}
