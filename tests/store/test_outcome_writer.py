"""The outcome writer writes outcomes to a real database, in order.

It writes outcomes in batches. The last batch of an attempt ends the job, or returns the job to the queue.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from images import LIMITS
from jobs import ANN, CHAIN, Clock, claim, finish, new_job, record, states, stored, submitted

from actors.group_commit import GroupCommit
from actors.outcome_writer import OutcomeWriter
from dag.plan import Plan, Source
from dag.specification import build
from pixtools.database.job_store import JobStore
from pixtools.errors import CorruptImage, LeaseLost, StorageRefused
from pixtools.jobs.outcomes import Batch, Cached, Crashed, Failed, Outcome, Started, Succeeded
from pixtools.jobs.views import Claim
from pixtools.redis.hints import Hints
from pixtools.states import JobState, StepState

pytestmark = pytest.mark.anyio

WAITING, SUCCEEDED, FAILED = StepState.WAITING, StepState.SUCCEEDED, StepState.FAILED

SOURCE = Source("x.jpg", "ab", (64, 48))
PLAN = build(
    {"t": {"op": "resize", "input": "source", "width": 3}, "a": {"op": "png", "input": "t"}}, SOURCE, 50, LIMITS
)

LONGER_PLAN = build(
    {
        "t": {"op": "resize", "input": "source", "width": 3},
        "u": {"op": "resize", "input": "t", "width": 2, "keep": True},
        "a": {"op": "png", "input": "u"},
    },
    SOURCE,
    50,
    LIMITS,
)


@pytest.fixture
async def hints(settings) -> AsyncIterator[Hints]:
    hints = Hints(settings)
    yield hints
    await hints.close()


def new_writer(store: JobStore, hints: Hints, claimed: Claim, plan: Plan = PLAN) -> OutcomeWriter:
    writer = OutcomeWriter(GroupCommit(store, hints), claimed)
    writer.plan = plan
    return writer


async def write(writer: OutcomeWriter, *outcomes: Outcome) -> None:
    """Report all outcomes of an attempt, and write them."""
    for outcome in outcomes:
        writer.report(outcome)
    writer.close()
    async with asyncio.timeout(60):
        await writer.write()


async def test_the_attempt_is_settled_when_every_step_is_reported(store, hints):
    claimed = submitted(store, new_job({"a": ("source",), "b": ("source",)}))
    writer = new_writer(store, hints, claimed)
    writing = asyncio.create_task(writer.write())
    for step in ("a", "b"):
        writer.report(Started(step))
        await asyncio.sleep(0.05)
        assert not writing.done()
        writer.report(Succeeded(step, stored(claimed, step), 5))

    await asyncio.wait_for(writing, 60)

    assert store.get(ANN, claimed.id).job.state == JobState.SUCCEEDED


async def test_the_outcomes_of_a_cheap_job_are_written_at_once(store, hints, monkeypatch):
    batches = []

    def record(group: list[Batch]) -> list[JobState | Exception]:
        batches.extend(batch.outcomes for batch in group)
        return JobStore.record(store, group)

    monkeypatch.setattr(store, "record", record)
    claimed = submitted(store, new_job())
    writer = new_writer(store, hints, claimed)
    writing = asyncio.create_task(writer.write())
    writer.report(Started("a"))
    await asyncio.sleep(0.02)
    writer.report(Succeeded("a", stored(claimed, "a"), 5))

    await asyncio.wait_for(writing, 60)

    assert [[type(outcome) for outcome in batch] for batch in batches] == [[Started, Succeeded]]
    assert 0.02 <= batches[0][0].ago_s < 20


async def test_a_step_that_takes_longer_is_shown_as_running(store, hints):
    claimed = submitted(store, new_job())
    writer = new_writer(store, hints, claimed)
    writing = asyncio.create_task(writer.write())
    writer.report(Started("a"))
    async with asyncio.timeout(60):
        while states(store, claimed.id)["a"] != StepState.RUNNING:
            await asyncio.sleep(0.05)
    writer.report(Succeeded("a", stored(claimed, "a"), 5))
    await asyncio.wait_for(writing, 60)


async def test_progress_is_written_before_the_end(store, hints):
    claimed = submitted(store, new_job(CHAIN))
    writer = new_writer(store, hints, claimed)
    writing = asyncio.create_task(writer.write())

    writer.report(Started("t"))
    async with asyncio.timeout(60):
        while states(store, claimed.id)["t"] is WAITING:
            await asyncio.sleep(0.01)

    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)


async def test_steps_without_an_outcome_wait_for_the_next_attempt(store, hints):
    claimed = submitted(store, new_job(CHAIN))

    await write(new_writer(store, hints, claimed), Started("other"), Succeeded("other", stored(claimed, "other"), 1))

    assert store.get(ANN, claimed.id).job.state == JobState.QUEUED
    assert states(store, claimed.id) == dict.fromkeys("tabz", WAITING) | {"other": SUCCEEDED}


async def test_a_writer_without_a_lease_raises_lease_lost_and_writes_nothing(store, hints, clock):
    claimed = submitted(store)
    clock.end_lease(claimed.id)
    store.rescue()

    with pytest.raises(LeaseLost):
        await write(new_writer(store, hints, claimed), Failed("a", CorruptImage()))

    assert states(store, claimed.id) == {"a": WAITING}


def second_attempt(store: JobStore, clock: Clock) -> Claim:
    """Claim a job for its second attempt. Step t succeeded in the first attempt, but left no file for step a."""
    first = submitted(store, new_job({"t": ("source",), "a": ("t",)}))
    record(store, first, Started("t"), Succeeded("t", None, 1))
    clock.end_lease(first.id)
    store.rescue()
    clock.end_backoff(first.id)
    return claim(store)


async def test_a_transform_that_runs_again_for_its_pixels_keeps_its_state(store, hints, clock):
    claimed = second_attempt(store, clock)
    outcomes = [Started("t"), Succeeded("t", None, 9), Started("a"), Succeeded("a", stored(claimed, "a"), 1)]

    await write(new_writer(store, hints, claimed), *outcomes)

    view = store.get(ANN, claimed.id)
    assert view.job.state == JobState.SUCCEEDED
    assert (view.steps[0].run_ms, view.steps[0].attempt) == (1, 1)


async def test_a_transform_that_fails_when_it_runs_again_fails_the_steps_that_need_its_pixels(store, hints, clock):
    claimed = second_attempt(store, clock)

    await write(new_writer(store, hints, claimed), Started("t"), Failed("t", CorruptImage("It changed.")))

    view = store.get(ANN, claimed.id)
    assert view.job.state == JobState.FAILED  # step t succeeded, but its only result, the pixels, is lost
    assert states(store, claimed.id) == {"t": SUCCEEDED, "a": FAILED}


async def test_a_retryable_failure_counts_although_the_step_succeeded_before(store, hints, clock):
    claimed = second_attempt(store, clock)

    await write(new_writer(store, hints, claimed), Started("t"), Failed("t", StorageRefused()))

    view = store.get(ANN, claimed.id)
    assert view.job.state == JobState.QUEUED
    assert sum(step.failures for step in view.steps) == 1  # otherwise the job would be tried forever, without pauses


async def test_a_crash_counts_although_the_step_succeeded_before(store, hints, clock):
    claimed = second_attempt(store, clock)

    await write(new_writer(store, hints, claimed), Started("t"), Crashed("t"))

    view = store.get(ANN, claimed.id)
    assert view.job.state == JobState.QUEUED
    assert sum(step.crashes for step in view.steps) == 1


async def test_a_hint_tells_of_the_end_of_a_job(store, hints, settings):
    claimed = submitted(store)
    received: list[str] = []
    listener = Hints(settings)

    async def listen() -> None:
        async for message in listener.listen("pixtools:moved"):
            received.append(message)  # noqa: PERF401 (the loop never ends)

    listening = asyncio.create_task(listen())
    async with asyncio.timeout(60):
        while "ready" not in received:
            await hints.publish("pixtools:moved", "ready")
            await asyncio.sleep(0.02)
        finish(store, claimed, "a")
        await write(new_writer(store, hints, claimed))
        while f"{claimed.id} succeeded" not in received:
            await asyncio.sleep(0.02)

    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    await listener.close()


async def test_a_cached_transform_that_fails_when_it_runs_for_its_pixels_fails_its_readers(store, hints):
    made = submitted(store, new_job({"t": ("source",)}, keys="same"))
    finish(store, made, "t", settle=True)
    claimed = submitted(store, new_job({"t": ("source",), "a": ("t",)}, keys="same"))
    (artifact,) = claimed.reusable.values()

    await write(new_writer(store, hints, claimed), Cached("t", artifact.id), Started("t"), Failed("t", CorruptImage()))

    assert states(store, claimed.id) == {"t": StepState.CACHED, "a": FAILED}


async def test_readers_of_a_cached_step_whose_pixels_cannot_be_made_again_fail(store, hints, clock):
    made = submitted(store, new_job({"u": ("source",)}, keys="same"))
    finish(store, made, "u", settle=True)
    claimed = submitted(store, new_job({"t": ("source",), "u": ("t",), "a": ("u",)}, keys="same"))
    (artifact,) = claimed.reusable.values()
    outcomes: tuple[Outcome, ...] = (Cached("u", artifact.id),)
    for _ in range(2):
        await write(
            new_writer(store, hints, claimed, LONGER_PLAN), *outcomes, Started("t"), Failed("t", CorruptImage())
        )
        if store.get(ANN, claimed.id).job.state != JobState.QUEUED:
            break
        clock.end_backoff(claimed.id)
        claimed, outcomes = claim(store), ()

    assert store.get(ANN, claimed.id).job.state == JobState.PARTIAL
    assert states(store, claimed.id)["u"] is StepState.CACHED
