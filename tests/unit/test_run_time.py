"""The time that the converter calls of an attempt take together."""

from __future__ import annotations

import asyncio

import pytest
from virtual_time import VirtualTimeLoop

from dag.run_time import RunTime

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "asyncio", {"loop_factory": VirtualTimeLoop}


def now() -> float:
    return asyncio.get_running_loop().time()


async def call(run_time: RunTime, seconds: float) -> None:
    with run_time.call():
        await asyncio.sleep(seconds)


async def calls_in_turn(run_time: RunTime, *durations_s: float) -> None:
    async with run_time.limit():
        for seconds in durations_s:
            await call(run_time, seconds)


async def calls_together(run_time: RunTime, *durations_s: float) -> None:
    async with run_time.limit(), asyncio.TaskGroup() as tasks:
        for seconds in durations_s:
            tasks.create_task(call(run_time, seconds))


async def test_calls_that_follow_each_other_are_added_up():
    began = now()

    with pytest.raises(TimeoutError):
        await calls_in_turn(RunTime(10), 4, 4, 4, 4)

    assert now() - began == pytest.approx(10)


async def test_calls_that_run_at_the_same_time_are_added_up():
    began = now()

    with pytest.raises(TimeoutError):
        await calls_together(RunTime(10), 2, 60, 60)

    assert now() - began == pytest.approx(4)  # 3 x 2 s, and then 2 x 2 s


async def test_calls_that_take_less_than_the_limit_are_not_stopped():
    await calls_in_turn(RunTime(10), 4, 5.9)
    await calls_together(RunTime(10), 1, 2, 6.9)


async def test_time_between_the_calls_does_not_count():
    run_time = RunTime(10)

    async with run_time.limit():
        await call(run_time, 5)
        await asyncio.sleep(3600)
        await call(run_time, 4.9)


async def test_a_call_that_begins_after_the_time_is_used_up_is_stopped_at_once():
    run_time = RunTime(10)

    async def calls() -> None:
        async with run_time.limit():
            with run_time.call():
                await asyncio.sleep(9)
                asyncio.get_running_loop()._virtual.now += 5  # as if the event loop were busy for 5 seconds
            await call(run_time, 1000)

    began = now()
    with pytest.raises(TimeoutError):
        await calls()
    assert now() - began == pytest.approx(14)
