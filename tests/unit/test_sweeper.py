"""The sweeper in one process, with stores in memory and a virtual clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from fake_stores import FakeDatabase, FakeHints, FakeJobStore, FakeReconciler
from virtual_time import VirtualTimeLoop, cancel_other_tasks

from actors.sweeper import Sweeper
from pixtools.errors import DatabaseDown, StorageDown
from pixtools.redis.hints import CHANGED, QUEUED
from pixtools.settings import Settings
from pixtools.states import JobState

pytestmark = pytest.mark.anyio

SETTINGS = Settings(database_url="postgresql://none", redis_url="redis://none")
SWEEP_S = SETTINGS.sweep_interval.total_seconds()
RENEW_S = SETTINGS.renew_interval.total_seconds()


@pytest.fixture
def anyio_backend():
    return "asyncio", {"loop_factory": VirtualTimeLoop}


class Bench:
    """A sweeper with its job store, its reconciler and its hints."""

    def __init__(self) -> None:
        self.time = asyncio.get_running_loop().time
        self.database = FakeDatabase()
        self.store = FakeJobStore(self.database, self.time)
        self.reconciler = FakeReconciler(self.time)
        self.hints = FakeHints()
        self.checks: list[float] = []
        self.has_webhooks = False
        self.courier_checks: list[float] = []
        self.sweeper = Sweeper(
            SETTINGS,
            store=self.store,
            reconciler=self.reconciler,
            hints=self.hints,
            ping=self.database.ping,
            ensure_dispatchers=lambda: self.checks.append(self.time()),
            has_webhooks=lambda: self.has_webhooks,
            ensure_couriers=lambda: self.courier_checks.append(self.time()),
        )


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    yield Bench()
    await cancel_other_tasks()


async def test_nothing_runs_before_the_start(bench):
    await asyncio.sleep(10_000)

    assert (bench.store.calls, bench.reconciler.runs, bench.checks) == ([], [], [])


async def test_jobs_whose_lease_ran_out_return_to_the_queue_and_hints_tell_of_it(bench):
    lost = bench.store.add(state=JobState.RUNNING, dispatcher="d1")
    kept = bench.store.add(state=JobState.RUNNING, dispatcher="d1")
    lost.lease_lost = True
    await bench.sweeper.start()

    await asyncio.sleep(SWEEP_S + 0.1)

    assert (lost.state, lost.crashes) == (JobState.QUEUED, 1)
    assert (kept.state, kept.crashes) == (JobState.RUNNING, 0)
    assert bench.hints.published == [(CHANGED, str(lost.view.job.id)), (QUEUED, "")]


async def test_without_a_lost_job_no_hint_is_published(bench):
    await bench.sweeper.start()

    await asyncio.sleep(60)

    assert bench.hints.published == []


async def test_each_task_has_its_interval(bench):
    began = bench.time()
    await bench.sweeper.start()

    await asyncio.sleep(3_700)

    sweeps = [time - began for time in bench.store.times("rescue")]
    assert sweeps[:3] == pytest.approx([SWEEP_S, 2 * SWEEP_S, 3 * SWEEP_S])
    assert len(bench.store.times("delete_expired_responses")) == len(sweeps)
    assert [time - began for time in bench.checks[:2]] == pytest.approx([60, 120])
    assert [time - began for time in bench.reconciler.runs] == pytest.approx([RENEW_S, RENEW_S + 3_600])


async def test_after_an_outage_the_dispatchers_have_one_renew_interval_before_the_next_rescue(bench):
    await bench.sweeper.start()
    await asyncio.sleep(SWEEP_S + 0.1)
    job = bench.store.add(state=JobState.RUNNING, dispatcher="d1")
    bench.database.down = True
    job.lease_lost = True  # the lease runs out during the outage
    await asyncio.sleep(60)

    bench.database.down = False
    await asyncio.sleep(RENEW_S)
    assert (job.state, job.crashes) == (JobState.RUNNING, 0)
    job.lease_lost = False  # the dispatcher has renewed the lease
    await asyncio.sleep(60)

    assert (job.state, job.crashes) == (JobState.RUNNING, 0)
    assert len(bench.store.times("rescue")) > 2  # the sweeper works again


async def test_a_job_that_is_not_renewed_after_an_outage_is_rescued(bench):
    bench.database.down = True
    job = bench.store.add(state=JobState.RUNNING, dispatcher="d1")
    job.lease_lost = True
    await bench.sweeper.start()
    await asyncio.sleep(60)

    bench.database.down = False
    await asyncio.sleep(RENEW_S + SWEEP_S + 2)

    assert job.state == JobState.QUEUED


async def test_an_outage_of_one_task_does_not_stop_the_others(bench):
    bench.reconciler.error = StorageDown()
    await bench.sweeper.start()

    await asyncio.sleep(200)

    assert len(bench.store.times("rescue")) > 30
    assert len(bench.reconciler.runs) == 4  # after an error, the reconciler runs each minute instead of each hour


async def test_an_unexpected_error_does_not_stop_a_task(bench):
    bench.store.errors["rescue"] = ValueError("a bug")
    await bench.sweeper.start()

    await asyncio.sleep(3 * SWEEP_S + 0.1)

    assert len(bench.store.times("rescue")) == 3


async def test_an_unexpected_error_during_an_outage_does_not_stop_a_task(bench):
    bench.store.errors["rescue"] = DatabaseDown("OperationalError")
    bench.database.ping_error = ValueError("a bug")
    await bench.sweeper.start()

    await asyncio.sleep(3 * SWEEP_S + 10)

    assert len(bench.store.times("rescue")) > 1


async def test_a_short_outage_that_is_over_at_the_first_ping_delays_the_next_sweep_too(bench):
    began = bench.time()
    bench.store.errors["rescue"] = DatabaseDown("OperationalError")
    await bench.sweeper.start()

    await asyncio.sleep(60)

    first, second = (time - began for time in bench.store.times("rescue")[:2])
    assert first == pytest.approx(SWEEP_S)
    assert second == pytest.approx(first + 1 + RENEW_S + SWEEP_S)


async def test_couriers_start_with_the_first_webhook_and_are_checked_from_then_on(bench):
    await bench.sweeper.start()
    await asyncio.sleep(100)
    assert bench.courier_checks == []

    bench.has_webhooks = True
    await asyncio.sleep(SWEEP_S)
    assert len(bench.courier_checks) == 1

    bench.has_webhooks = False
    await asyncio.sleep(600)
    assert len(bench.courier_checks) == 11
