"""The converter pool decides when converters start and end, and which converter each caller gets."""

from __future__ import annotations

import asyncio
import time

import pytest
from pools import Cluster, acquire, settle, take, take_each

pytestmark = pytest.mark.anyio


async def test_the_minimum_is_started_before_the_first_call():
    cluster = Cluster()
    pool = cluster.pool(minimum=2, maximum=5)
    await settle()

    assert (pool.size, pool.idle) == (2, 2)


async def test_without_a_minimum_no_converter_starts_before_the_first_call():
    cluster = Cluster()
    pool = cluster.pool(minimum=0, maximum=5)
    await settle()
    assert cluster.created == []

    assert await take(pool) is cluster.created[0]
    assert (pool.size, pool.idle) == (1, 0)


async def test_the_pool_grows_with_the_waiting_callers_up_to_the_maximum():
    cluster = Cluster()
    pool = cluster.pool(minimum=1, maximum=3)

    callers = acquire(pool, 5)
    await settle()

    assert pool.size == len(cluster.created) == 3
    assert [caller.done() for caller in callers] == [True, True, True, False, False]
    assert len({caller.result() for caller in callers[:3]}) == 3
    for caller in callers[3:]:
        caller.cancel()


async def test_no_more_converters_are_started_than_callers_wait():
    cluster = Cluster()
    cluster.starts.clear()
    pool = cluster.pool(minimum=0, maximum=10)

    callers = acquire(pool, 2)
    await settle()
    assert (pool.size, pool.idle) == (2, 0)

    cluster.starts.set()
    await asyncio.wait_for(asyncio.gather(*callers), 5)
    assert len(cluster.created) == 2


async def test_a_second_caller_at_the_same_moment_gets_another_converter():
    cluster = Cluster()
    pool = cluster.pool(minimum=0, maximum=2)

    first = await take(pool)
    second = await take(pool, timeout_s=0.5)  # no other task runs between the two calls

    assert {first, second} == set(cluster.created)


async def test_the_caller_that_waits_longest_is_served_first():
    cluster = Cluster()
    pool = cluster.pool(minimum=1, maximum=1)
    held = await take(pool)
    first, second = acquire(pool, 2)
    await settle()

    pool.release(held)
    await settle()

    assert first.done()
    assert first.result() is held
    assert not second.done()
    second.cancel()


async def test_the_converter_used_last_is_used_again():
    cluster = Cluster()
    pool = cluster.pool(minimum=3, maximum=3)
    one, two = await take_each(pool, 2)

    pool.release(one)
    pool.release(two)

    assert await take(pool) is two
    assert await take(pool) is one


async def test_converters_that_were_idle_for_too_long_are_ended_down_to_the_minimum():
    cluster = Cluster()
    pool = cluster.pool(minimum=1, maximum=4, idle_s=0.05)
    held = await take_each(pool, 4)
    for converter in held:
        pool.release(converter)

    pool.shrink()
    assert pool.size == 4  # no converter has been idle for long enough yet

    await asyncio.sleep(0.1)
    pool.shrink()

    assert (pool.size, pool.idle) == (1, 1)
    assert cluster.ended == held[:3]  # the converters that have been idle longest end first
    assert await take(pool) is held[3]


async def test_a_converter_that_was_used_in_between_stays():
    cluster = Cluster()
    pool = cluster.pool(minimum=0, maximum=2, idle_s=0.2)
    one, two = await take_each(pool, 2)
    pool.release(one)
    pool.release(two)
    await asyncio.sleep(0.15)
    assert await take(pool) is two
    pool.release(two)
    await asyncio.sleep(0.1)

    pool.shrink()

    assert cluster.ended == [one]


async def test_a_busy_converter_is_never_ended_for_being_idle():
    cluster = Cluster()
    pool = cluster.pool(minimum=0, maximum=2, idle_s=0)
    held = await take(pool)
    await asyncio.sleep(0.01)

    pool.shrink()

    assert cluster.ended == []
    pool.release(held)


async def test_a_discarded_converter_is_replaced_for_a_waiting_caller():
    cluster = Cluster()
    pool = cluster.pool(minimum=0, maximum=1)
    dead = await take(pool)
    (caller,) = acquire(pool, 1)
    await settle()
    assert not caller.done()

    pool.discard(dead)

    assert await asyncio.wait_for(caller, 5) is cluster.created[1]
    assert cluster.ended == [dead]
    assert pool.size == 1


async def test_a_discarded_converter_is_replaced_up_to_the_minimum_without_a_waiting_caller():
    cluster = Cluster()
    pool = cluster.pool(minimum=1, maximum=2)

    pool.discard(await take(pool))
    await settle()

    assert (pool.size, pool.idle) == (1, 1)


async def test_a_converter_that_did_not_start_is_ended_and_started_again():
    cluster = Cluster()
    cluster.failures_left = 1
    pool = cluster.pool(minimum=1, maximum=1)

    started = time.monotonic()
    converter = await take(pool)

    assert converter is cluster.created[1]
    assert cluster.ended == [cluster.created[0]]
    assert pool.size == 1
    assert time.monotonic() - started > 0.5  # the pool pauses, so that it does not overload a broken node


async def test_a_caller_that_is_cancelled_while_it_waits_takes_no_converter():
    cluster = Cluster()
    pool = cluster.pool(minimum=1, maximum=1)
    held = await take(pool)
    gone, waiting = acquire(pool, 2)
    await settle()

    gone.cancel()
    await settle()
    pool.release(held)

    assert await asyncio.wait_for(waiting, 5) is held
    pool.release(held)
    assert (pool.size, pool.idle) == (1, 1)


async def test_the_converter_of_a_caller_that_is_cancelled_as_it_is_served_goes_to_the_next():
    cluster = Cluster()
    pool = cluster.pool(minimum=1, maximum=1)
    held = await take(pool)
    gone, waiting = acquire(pool, 2)
    await settle()

    pool.release(held)  # the caller `gone` now has this converter, but has not continued yet
    gone.cancel()

    assert await asyncio.wait_for(waiting, 5) is held
    with pytest.raises(asyncio.CancelledError):
        await gone


async def test_no_converter_is_started_for_a_cancelled_caller():
    cluster = Cluster()
    cluster.starts.clear()
    pool = cluster.pool(minimum=0, maximum=2)
    (gone,) = acquire(pool, 1)
    await settle()
    gone.cancel()
    await settle()

    (waiting,) = acquire(pool, 1)
    await settle()
    cluster.starts.set()

    assert await asyncio.wait_for(waiting, 5) is cluster.created[0]
    assert len(cluster.created) == 1


async def test_a_converter_that_starts_after_its_caller_was_cancelled_is_idle():
    cluster = Cluster()
    cluster.starts.clear()
    pool = cluster.pool(minimum=0, maximum=1)
    (gone,) = acquire(pool, 1)
    await settle()

    gone.cancel()
    cluster.starts.set()
    await settle()

    assert (pool.size, pool.idle) == (1, 1)


async def test_many_callers_at_once_are_all_served():
    cluster = Cluster()
    pool = cluster.pool(minimum=1, maximum=3)
    now = most = 0

    async def work() -> None:
        nonlocal now, most
        converter = await take(pool)
        now += 1
        most = max(most, now)
        await asyncio.sleep(0)
        now -= 1
        if converter.number % 2:
            pool.discard(converter)
        else:
            pool.release(converter)

    await asyncio.wait_for(asyncio.gather(*(work() for _ in range(60))), 10)

    assert most == 3
    assert pool.size <= 3
    assert sorted(converter.number for converter in cluster.ended) == [
        converter.number for converter in cluster.created if converter.number % 2
    ]


async def test_a_pool_that_retires_ends_its_idle_converters():
    cluster = Cluster()
    pool = cluster.pool(minimum=2, maximum=4)
    held = await take(pool)
    await settle()
    assert (pool.size, pool.idle) == (2, 1)

    pool.retire()

    assert (pool.size, pool.idle) == (1, 0)
    assert held not in cluster.ended


async def test_a_retired_pool_ends_each_converter_when_it_is_released():
    cluster = Cluster()
    pool = cluster.pool(minimum=2, maximum=2)
    held = await take_each(pool, 2)
    pool.retire()

    for converter in held:
        pool.release(converter)

    assert cluster.ended == held
    assert (pool.size, pool.idle) == (0, 0)


async def test_a_retired_pool_still_serves_its_callers():
    cluster = Cluster()
    pool = cluster.pool(minimum=1, maximum=1)
    held = await take(pool)
    (caller,) = acquire(pool, 1)
    await settle()
    pool.retire()

    pool.release(held)

    assert await asyncio.wait_for(caller, 5) is held
    pool.release(held)
    assert await take(pool) is cluster.created[1]  # the pool started this converter for the new caller


async def test_a_retired_pool_replaces_a_discarded_converter_only_for_a_waiting_caller():
    cluster = Cluster()
    pool = cluster.pool(minimum=1, maximum=2)
    held = await take(pool)
    pool.retire()

    pool.discard(held)
    await settle()

    assert (pool.size, len(cluster.created)) == (0, 1)


async def test_a_converter_that_starts_after_its_pool_retired_is_ended():
    cluster = Cluster()
    cluster.starts.clear()
    pool = cluster.pool(minimum=1, maximum=2)
    await settle()
    pool.retire()

    cluster.starts.set()
    await settle()

    assert cluster.ended == cluster.created
    assert pool.size == 0
