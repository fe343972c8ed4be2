"""The group commit of a dispatcher: which batches share a transaction, and who gets which result."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import AsyncIterator

import pytest
from fake_stores import FakeHints
from virtual_time import VirtualTimeLoop, cancel_other_tasks

from actors.group_commit import GroupCommit
from pixtools.errors import DatabaseDown, LeaseLost
from pixtools.jobs.outcomes import Batch
from pixtools.redis.hints import CHANGED
from pixtools.states import JobState

pytestmark = pytest.mark.anyio


class Store:
    """A job store whose calls wait for `free`. `lost` are the jobs without a lease."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.groups: list[list[uuid.UUID]] = []
        self.lost: set[uuid.UUID] = set()
        self.error: Exception | None = None

    def record(self, batches: list[Batch]) -> list[JobState | Exception]:
        self.groups.append([batch.job_id for batch in batches])
        assert self.free.wait(10)
        error, self.error = self.error, None
        if error is not None:
            raise error
        return [LeaseLost() if batch.job_id in self.lost else JobState.SUCCEEDED for batch in batches]


class Bench:
    """A group commit on a store whose first transaction has begun."""

    def __init__(self) -> None:
        self.store, self.hints = Store(), FakeHints()
        self.commits = GroupCommit(self.store, self.hints)  # type: ignore[arg-type]
        self.jobs = [uuid.uuid4() for _ in range(4)]
        self.calls: list[asyncio.Task[JobState]] = []

    async def begin(self) -> None:
        """Record a batch of the first job. While the store is busy with it, record batches of the other jobs."""
        for job in self.jobs:
            self.calls.append(asyncio.create_task(self.commits.record(Batch(job, 1, (), 1))))
            while not self.store.groups:
                await asyncio.sleep(0)


@pytest.fixture
def anyio_backend():
    return "asyncio", {"loop_factory": VirtualTimeLoop}


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    await bench.begin()
    yield bench
    bench.store.free.set()
    await cancel_other_tasks()


async def test_batches_that_wait_at_the_same_time_share_a_transaction(bench):
    bench.store.free.set()

    assert await asyncio.gather(*bench.calls) == [JobState.SUCCEEDED] * 4
    assert bench.store.groups == [bench.jobs[:1], bench.jobs[1:]]
    assert sorted(bench.hints.published) == sorted((CHANGED, f"{job} succeeded") for job in bench.jobs)


async def test_a_lost_lease_concerns_one_job_only(bench):
    bench.store.lost = {bench.jobs[2]}
    bench.store.free.set()

    results = await asyncio.gather(*bench.calls, return_exceptions=True)

    assert [type(result) for result in results] == [JobState, JobState, LeaseLost, JobState]
    assert str(bench.jobs[2]) not in str(bench.hints.published)


async def test_an_unexpected_error_reaches_the_callers_and_later_batches_are_written(bench):
    bench.store.error = ValueError("a bug")
    bench.store.free.set()

    results = await asyncio.gather(*bench.calls, return_exceptions=True)

    assert [type(result) for result in results] == [ValueError, JobState, JobState, JobState]


async def test_after_an_outage_the_group_is_written_without_the_callers_that_were_cancelled(bench):
    bench.store.error = DatabaseDown("OperationalError")
    bench.calls[0].cancel()
    bench.calls[3].cancel()
    bench.store.free.set()

    results = await asyncio.gather(*bench.calls, return_exceptions=True)

    assert [type(result) for result in results[1:3]] == [JobState, JobState]
    assert bench.store.groups == [bench.jobs[:1], bench.jobs[1:3]]
