"""The dead-letter queue in one process, with a store in memory and a virtual clock."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest
from fake_stores import FakeDatabase, FakeDeadLetterStore, FakeHints
from virtual_time import VirtualTimeLoop, cancel_other_tasks

from actors.dead_letter_queue import DeadLetterQueue
from pixtools.errors import DatabaseDown
from pixtools.jobs.dead_letters import DeadLetterSelection
from pixtools.redis.hints import CHANGED, QUEUED
from pixtools.settings import Settings
from pixtools.states import DeadLetterState

pytestmark = pytest.mark.anyio

WAITING, REDRIVING, REDRIVEN = DeadLetterState.WAITING, DeadLetterState.REDRIVING, DeadLetterState.REDRIVEN

SETTINGS = Settings(database_url="postgresql://none", redis_url="redis://none", redrives_per_s=10)
ALL = DeadLetterSelection()


@pytest.fixture
def anyio_backend():
    return "asyncio", {"loop_factory": VirtualTimeLoop}


class Bench:
    """A store of dead letters, and hints. `start` starts a new dead-letter queue that uses them."""

    def __init__(self) -> None:
        self.time = asyncio.get_running_loop().time
        self.database = FakeDatabase()
        self.store = FakeDeadLetterStore(self.database, self.time)
        self.hints = FakeHints()

    async def start(self) -> DeadLetterQueue:
        queue = DeadLetterQueue(SETTINGS, "build 1", store=self.store, hints=self.hints)
        await queue.start()
        await asyncio.sleep(0.1)
        return queue

    def count(self, state: DeadLetterState) -> int:
        return len(self.store.in_state(state))


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    yield Bench()
    await cancel_other_tasks()


async def test_a_queue_that_was_not_started_redrives_nothing(bench):
    bench.store.add(3)
    queue = DeadLetterQueue(SETTINGS, "build 1", store=bench.store, hints=bench.hints)

    assert await queue.redrive("ann", ALL) == 3
    await asyncio.sleep(60)

    assert bench.count(REDRIVING) == 3


async def test_dead_letters_without_a_request_stay(bench):
    bench.store.add(3)

    await bench.start()
    await asyncio.sleep(60)

    assert bench.count(WAITING) == 3


async def test_requested_redrives_run_at_the_bounded_rate(bench):
    bench.store.add(40)
    queue = await bench.start()
    began = bench.time()

    assert await queue.redrive("ann", ALL) == 40
    await asyncio.sleep(2.05)
    assert bench.count(REDRIVEN) == 21  # the first redrive runs at once, and 20 more follow in 2 s
    await asyncio.sleep(10)

    gaps = [later - earlier for earlier, later in pairwise(bench.store.redriven_at)]
    assert bench.count(REDRIVEN) == 40
    assert bench.store.redriven_at[0] == pytest.approx(began)
    assert gaps == pytest.approx([1 / SETTINGS.redrives_per_s] * 39)


async def test_the_dead_letters_of_one_job_are_redriven_together_and_count_each_for_the_rate(bench):
    bench.store.add(20, job=uuid.uuid4())
    bench.store.add(1)
    queue = await bench.start()

    await queue.redrive("ann", ALL)
    await asyncio.sleep(5)

    first, second = bench.store.redriven_at
    assert second - first == pytest.approx(20 / SETTINGS.redrives_per_s)


async def test_a_restarted_queue_goes_on_with_the_redrives_that_were_requested(bench):
    bench.store.add(40)
    queue = await bench.start()
    await queue.redrive("ann", ALL)
    await asyncio.sleep(1)
    await cancel_other_tasks()  # the queue dies
    assert 0 < bench.count(REDRIVEN) < 40

    await bench.start()
    await asyncio.sleep(10)

    assert bench.count(REDRIVEN) == 40
    assert len(bench.store.redriven_at) == 40


async def test_a_request_that_only_the_database_knows_of_is_found(bench):
    bench.store.add()
    await bench.start()
    bench.store.request_redrive("ann", ALL)

    await asyncio.sleep(SETTINGS.sweep_interval.total_seconds() + 0.1)

    assert bench.count(REDRIVEN) == 1


async def test_redrives_go_on_after_an_outage(bench):
    bench.store.add(20)
    queue = await bench.start()
    await queue.redrive("ann", ALL)
    await asyncio.sleep(1)
    bench.database.down = True
    await asyncio.sleep(60)
    done = bench.count(REDRIVEN)
    assert done < 20

    bench.database.down = False
    await asyncio.sleep(5)

    assert bench.count(REDRIVEN) == 20


async def test_a_request_during_an_outage_is_not_acknowledged(bench):
    bench.store.add()
    queue = await bench.start()
    bench.database.down = True

    with pytest.raises(DatabaseDown):
        await queue.redrive("ann", ALL)

    bench.database.down = False
    await asyncio.sleep(60)
    assert bench.count(WAITING) == 1


async def test_hints_tell_of_a_redriven_job(bench):
    job = uuid.uuid4()
    bench.store.add(2, job=job)
    queue = await bench.start()

    await queue.redrive("ann", ALL)
    await asyncio.sleep(1)

    assert bench.hints.published == [(CHANGED, str(job)), (QUEUED, "")]


async def test_a_retry_redrives_the_dead_letters_of_one_job_at_once(bench):
    job = uuid.uuid4()
    bench.store.add(5, job=job)
    bench.store.add(1)
    queue = await bench.start()

    assert await queue.retry("ann", job) == 5

    assert (bench.count(REDRIVEN), bench.count(WAITING)) == (5, 1)
    assert await queue.retry("ann", job) == 0


async def test_discarded_dead_letters_are_not_redriven(bench):
    bench.store.add(40)
    queue = await bench.start()
    await queue.redrive("ann", ALL)
    await asyncio.sleep(1.05)

    assert await queue.discard("ann", ALL) == 29
    await asyncio.sleep(10)

    assert (bench.count(REDRIVEN), bench.count(DeadLetterState.DISCARDED)) == (11, 29)


async def test_the_dead_letters_are_counted_at_an_interval_also_after_an_outage(bench):
    await bench.start()
    await asyncio.sleep(20)
    assert bench.store.observations == 5
    bench.database.down = True
    await asyncio.sleep(60)

    bench.database.down = False
    await asyncio.sleep(20)

    assert bench.store.observations >= 8


async def test_the_queue_tells_its_build(bench):
    assert await (await bench.start()).build() == "build 1"
