"""The ledger of one attempt, on a real database: what is reported is written in order, and the end settles the job."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from images import LIMITS
from jobs import ANN, CHAIN, Clock, claim, finish, new_job, states, stored, submitted

from actors.outcome_writer import Ledger
from dag.plan import Source
from dag.specification import build
from pixtools.database.job_store import Claim, JobStore
from pixtools.errors import CorruptImage, LeaseLost, StorageRefused
from pixtools.jobs.outcomes import Began, Cached, Crashed, Done, Failed, Outcome
from pixtools.redis.hints import Hints
from pixtools.states import JobState, StepState

pytestmark = pytest.mark.anyio

WAITING, SUCCEEDED, FAILED = StepState.WAITING, StepState.SUCCEEDED, StepState.FAILED

SOURCE = Source("x.jpg", "ab", (64, 48))
AGAIN = build(
    {"t": {"op": "resize", "input": "source", "width": 3}, "a": {"op": "png", "input": "t"}}, SOURCE, 50, LIMITS
)

BEHIND = build(
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


def ledger(store: JobStore, hints: Hints, claimed: Claim) -> Ledger:
    made = Ledger(store, hints, claimed)
    made.plan = AGAIN
    return made


async def write(ledger: Ledger, *outcomes: Outcome) -> None:
    """Report outcomes as the whole of an attempt."""
    for outcome in outcomes:
        ledger.report(outcome)
    ledger.close()
    async with asyncio.timeout(60):
        await ledger.write()


async def test_the_attempt_is_settled_when_every_step_is_reported(store, hints):
    claimed = submitted(store, new_job({"a": ("source",), "b": ("source",)}))
    book = ledger(store, hints, claimed)
    writing = asyncio.create_task(book.write())
    for step in ("a", "b"):
        book.report(Began(step))
        await asyncio.sleep(0.05)
        assert not writing.done()
        book.report(Done(step, stored(claimed, step), 5))

    await asyncio.wait_for(writing, 60)

    assert store.get(ANN, claimed.id).job.state == JobState.SUCCEEDED


async def test_progress_can_be_seen_before_the_end(store, hints):
    claimed = submitted(store, new_job(CHAIN))
    book = ledger(store, hints, claimed)
    writing = asyncio.create_task(book.write())

    book.report(Began("t"))
    async with asyncio.timeout(60):
        while states(store, claimed.id)["t"] is WAITING:
            await asyncio.sleep(0.01)

    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)


async def test_steps_of_which_nothing_was_reported_wait_for_the_next_attempt(store, hints):
    claimed = submitted(store, new_job(CHAIN))

    await write(ledger(store, hints, claimed), Began("other"), Done("other", stored(claimed, "other"), 1))

    assert store.get(ANN, claimed.id).job.state == JobState.QUEUED
    assert states(store, claimed.id) == dict.fromkeys("tabz", WAITING) | {"other": SUCCEEDED}


async def test_a_ledger_that_lost_its_lease_says_so_and_writes_nothing(store, hints, clock):
    claimed = submitted(store)
    clock.end_lease(claimed.id)
    store.rescue()

    with pytest.raises(LeaseLost):
        await write(ledger(store, hints, claimed), Failed("a", CorruptImage()))

    assert states(store, claimed.id) == {"a": WAITING}


def again(store: JobStore, clock: Clock) -> Claim:
    """Return the second attempt of a job whose transform was done in the first, and leaves no file to its reader."""
    first = submitted(store, new_job({"t": ("source",), "a": ("t",)}))
    store.record(first.id, first.attempt, [Began("t"), Done("t", None, 1)])
    clock.end_lease(first.id)
    store.rescue()
    clock.end_backoff(first.id)
    return claim(store)


async def test_a_transform_that_ran_again_for_its_pixels_stays_as_it_was(store, hints, clock):
    claimed = again(store, clock)
    outcomes = [Began("t"), Done("t", None, 9), Began("a"), Done("a", stored(claimed, "a"), 1)]

    await write(ledger(store, hints, claimed), *outcomes)

    view = store.get(ANN, claimed.id)
    assert view.job.state == JobState.SUCCEEDED
    assert (view.steps[0].run_ms, view.steps[0].attempt) == (1, 1)


async def test_a_transform_that_fails_when_it_runs_again_fails_those_who_need_its_pixels(store, hints, clock):
    claimed = again(store, clock)

    await write(ledger(store, hints, claimed), Began("t"), Failed("t", CorruptImage("It changed.")))

    view = store.get(ANN, claimed.id)
    assert view.job.state == JobState.FAILED  # its only result were pixels, and they are gone
    assert states(store, claimed.id) == {"t": SUCCEEDED, "a": FAILED}


async def test_a_failure_that_may_pass_counts_though_the_step_had_run_before(store, hints, clock):
    claimed = again(store, clock)

    await write(ledger(store, hints, claimed), Began("t"), Failed("t", StorageRefused()))

    view = store.get(ANN, claimed.id)
    assert view.job.state == JobState.QUEUED
    assert sum(step.failures for step in view.steps) == 1  # or it would be tried without a pause and for ever


async def test_a_crash_counts_though_the_step_had_run_before(store, hints, clock):
    claimed = again(store, clock)

    await write(ledger(store, hints, claimed), Began("t"), Crashed("t"))

    view = store.get(ANN, claimed.id)
    assert view.job.state == JobState.QUEUED
    assert sum(step.crashes for step in view.steps) == 1


async def test_whoever_follows_a_job_is_told_of_its_end(store, hints, settings):
    claimed = submitted(store)
    heard: list[str] = []
    listener = Hints(settings)

    async def listen() -> None:
        async for message in listener.listen("pixtools:moved"):
            heard.append(message)  # noqa: PERF401 (it never ends)

    listening = asyncio.create_task(listen())
    async with asyncio.timeout(60):
        while "ready" not in heard:
            await hints.publish("pixtools:moved", "ready")
            await asyncio.sleep(0.02)
        finish(store, claimed, "a")
        await write(ledger(store, hints, claimed))
        while str(claimed.id) not in heard:
            await asyncio.sleep(0.02)

    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    await listener.close()


async def test_a_transform_found_in_the_cache_that_fails_as_it_runs_for_its_pixels_is_charged_to_its_readers(
    store, hints
):
    made = submitted(store, new_job({"t": ("source",)}, keys="same"))
    finish(store, made, "t", settle=True)
    claimed = submitted(store, new_job({"t": ("source",), "a": ("t",)}, keys="same"))
    (artifact,) = claimed.reusable.values()

    await write(ledger(store, hints, claimed), Cached("t", artifact.id), Began("t"), Failed("t", CorruptImage()))

    assert states(store, claimed.id) == {"t": StepState.CACHED, "a": FAILED}


async def test_steps_behind_a_cached_one_whose_pixels_are_lost_for_good_come_to_an_end(store, hints, clock):
    made = submitted(store, new_job({"u": ("source",)}, keys="same"))
    finish(store, made, "u", settle=True)
    claimed = submitted(store, new_job({"t": ("source",), "u": ("t",), "a": ("u",)}, keys="same"))
    (artifact,) = claimed.reusable.values()
    outcomes: tuple[Outcome, ...] = (Cached("u", artifact.id),)
    for _ in range(2):
        book = ledger(store, hints, claimed)
        book.plan = BEHIND
        await write(book, *outcomes, Began("t"), Failed("t", CorruptImage()))
        if store.get(ANN, claimed.id).job.state != JobState.QUEUED:
            break
        clock.end_backoff(claimed.id)
        claimed, outcomes = claim(store), ()

    assert store.get(ANN, claimed.id).job.state == JobState.PARTIAL
    assert states(store, claimed.id)["u"] is StepState.CACHED
