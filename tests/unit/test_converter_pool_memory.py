"""The converter pool keeps the work on a node within the memory budget of the node, and serves every caller.

Work that needs more than the whole budget of a node runs alone on the node.
"""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pools import Cluster, acquire, settle, take, take_each

pytestmark = pytest.mark.anyio


async def end(*callers: asyncio.Task) -> None:
    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)


async def test_work_runs_together_as_long_as_its_memory_fits_on_the_node():
    pool = Cluster(1000).pool(minimum=3, maximum=3)
    await take(pool, 600)
    await take(pool, 400)

    (caller,) = acquire(pool, 1, 1)
    await settle()

    assert not caller.done()  # the caller waits although one converter is idle
    assert (pool.idle, pool.taken_bytes, pool.memory_bytes) == (1, 1000, 1000)
    await end(caller)


@pytest.mark.parametrize("how", ["release", "discard"])
async def test_work_that_ends_makes_room(how):
    pool = Cluster(1000).pool(minimum=2, maximum=2)
    first = await take(pool, 600)
    (caller,) = acquire(pool, 1, 500)
    await settle()
    assert not caller.done()

    getattr(pool, how)(first)

    await asyncio.wait_for(caller, 5)
    assert pool.taken_bytes == 500


async def test_work_goes_to_the_node_that_has_room():
    cluster = Cluster(1000, 1000)
    pool = cluster.pool(minimum=4, maximum=4)
    await settle()

    nodes = [(await take(pool, 700)).node for _ in range(2)]

    assert set(nodes) == set(cluster.nodes)
    assert pool.memory_bytes == 2000


async def test_a_converter_is_started_if_the_nodes_of_all_idle_converters_are_full():
    """The new converter may start on another node, or Ray may add a node for it."""
    cluster = Cluster(1000, 2000)
    pool = cluster.pool(minimum=3, maximum=4)  # two of the first three converters are on the smaller node
    await settle()
    await take_each(pool, 2, 700)
    assert pool.idle == 1

    other = await take(pool, 700)

    assert (other, other.node) == (cluster.created[3], cluster.nodes[1])
    assert pool.idle == 1


async def test_work_that_needs_more_than_a_node_runs_on_a_node_alone():
    pool = Cluster(1000).pool(minimum=2, maximum=2)
    small = await take(pool, 10)
    (caller,) = acquire(pool, 1, 2_500)
    await settle()
    assert not caller.done()

    pool.release(small)
    await asyncio.wait_for(caller, 5)
    (behind,) = acquire(pool, 1, 10)
    await settle()

    assert not behind.done()
    await end(behind)


async def test_no_work_counts_for_more_than_the_limit_of_a_converter():
    pool = Cluster(7_000).pool(minimum=3, maximum=3)

    await take_each(pool, 2, memory_bytes=9_000)

    assert pool.taken_bytes == 6_000


async def test_small_work_goes_ahead_of_large_work_a_limited_number_of_times():
    pool = Cluster(1000).pool(minimum=2, maximum=2)
    held = await take(pool, 500)
    (large,) = acquire(pool, 1, 900)
    passed = 0
    while True:
        (small,) = acquire(pool, 1, 100)
        await settle()
        if not small.done():
            break
        passed += 1
        pool.release(small.result())

    assert passed == 16
    pool.release(held)
    pool.release(await asyncio.wait_for(large, 5))
    await asyncio.wait_for(small, 5)


async def test_callers_behind_large_work_are_served_at_once_when_it_is_cancelled():
    pool = Cluster(1000).pool(minimum=2, maximum=2)
    await take(pool, 500)
    (large,) = acquire(pool, 1, 900)
    await settle()
    for _ in range(16):
        pool.release(await take(pool, 100))
    (small,) = acquire(pool, 1, 100)
    await settle()
    assert not small.done()

    await end(large)

    await asyncio.wait_for(small, 5)


async def test_work_that_is_cancelled_as_it_is_served_takes_no_memory():
    pool = Cluster(1000).pool(minimum=2, maximum=2)
    held = await take(pool, 900)
    (gone,) = acquire(pool, 1, 900)
    await settle()

    pool.release(held)
    await end(gone)

    assert pool.taken_bytes == 0


# Two values for each caller: the memory that the caller needs, and how its work ends.
WORK = st.lists(st.tuples(st.integers(1, 4_000), st.sampled_from(["release", "discard", "cancel"])), max_size=40)


@given(nodes=st.lists(st.integers(500, 3_000), min_size=1, max_size=3), maximum=st.integers(1, 5), work=WORK)
def test_no_node_is_over_its_budget_and_every_caller_is_served(nodes, maximum, work):
    asyncio.run(run_all(Cluster(*nodes), maximum, work))


async def run_all(cluster: Cluster, maximum: int, work: list[tuple[int, str]]) -> None:
    pool = cluster.pool(minimum=0, maximum=maximum)
    at_work: dict[str, Counter[int]] = {node.name: Counter() for node in cluster.nodes}
    served = 0

    async def run(number: int, memory_bytes: int, ending: str) -> None:
        nonlocal served
        converter = await pool.acquire(memory_bytes)
        served += 1
        busy = at_work[converter.node.name]
        busy[number] = min(memory_bytes, 3_000)
        assert len(busy) == 1 or busy.total() <= converter.node.memory_bytes
        try:
            for _ in range(number % 5):
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            ending = "discard"
            raise
        finally:
            del busy[number]
            (pool.discard if ending == "discard" else pool.release)(converter)

    callers = [asyncio.create_task(run(number, *item)) for number, item in enumerate(work)]
    await asyncio.sleep(0)
    for caller, (_, ending) in zip(callers, work, strict=True):
        if ending == "cancel":
            caller.cancel()
            await asyncio.sleep(0)
    async with asyncio.timeout(10):
        ended = await asyncio.gather(*callers, return_exceptions=True)

    assert [error for error in ended if isinstance(error, Exception)] == []
    assert pool.taken_bytes == 0
    assert pool.size <= maximum
