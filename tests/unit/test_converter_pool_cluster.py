"""The converter pool follows the cluster: nodes join, nodes are about to be removed, and nodes become empty."""

from __future__ import annotations

import asyncio

import pytest
from pools import Cluster, acquire, settle, take, take_each

from actors.converter_pool import Capacity

pytestmark = pytest.mark.anyio


async def test_a_larger_capacity_starts_converters_for_waiting_callers():
    cluster = Cluster()
    pool = cluster.pool(minimum=0, maximum=1)
    held = await take(pool)
    callers = acquire(pool, 2)
    await settle()
    assert pool.size == 1

    pool.adapt(Capacity(4))
    await settle()

    assert pool.size == 3
    assert {held, *(caller.result() for caller in callers)} == set(cluster.created)


async def test_a_smaller_capacity_ends_idle_converters_at_once_and_busy_ones_after_their_call():
    cluster = Cluster()
    pool = cluster.pool(minimum=4, maximum=4)
    one, two = await take_each(pool, 2)

    pool.adapt(Capacity(1))
    assert (pool.size, pool.idle) == (2, 0)
    assert not {one, two} & set(cluster.ended)

    pool.release(one)
    pool.release(two)

    assert (pool.size, pool.idle) == (1, 1)
    assert await take(pool) is two


async def test_converters_on_a_node_that_is_about_to_be_removed_end_after_their_call():
    cluster = Cluster(1_000, 1_000)
    pool = cluster.pool(minimum=4, maximum=4)
    held = await take_each(pool, 2)
    leaving, staying = sorted(held, key=lambda each: each.node.name != "node 1")
    cluster.nodes = [staying.node]

    pool.adapt(Capacity(4, frozenset({"node 1"})))
    await settle()
    assert leaving not in cluster.ended
    assert all(each.node.name == "node 1" for each in cluster.ended)

    pool.release(leaving)
    pool.release(staying)
    await settle()

    alive = set(cluster.created) - set(cluster.ended)
    assert {each.node.name for each in alive} == {"node 0"}
    assert (pool.size, pool.idle) == (4, 4)


async def test_a_converter_that_starts_on_a_node_that_is_about_to_be_removed_serves_nobody():
    cluster = Cluster(1_000, 1_000)
    cluster.starts.clear()
    pool = cluster.pool(minimum=0, maximum=4)
    callers = acquire(pool, 2)
    await settle()
    leaving = cluster.created[1]
    pool.adapt(Capacity(4, frozenset({leaving.node.name})))
    cluster.nodes = cluster.nodes[:1]

    cluster.starts.set()
    served = await asyncio.wait_for(asyncio.gather(*callers), 5)

    assert leaving in cluster.ended
    assert {each.node.name for each in served} == {"node 0"}


async def test_nodes_become_empty_one_after_the_other():
    cluster = Cluster(1_000, 1_000, 1_000)
    pool = cluster.pool(minimum=1, maximum=7, idle_s=0)
    held = await take_each(pool, 7)  # three of them on node 0, two on each other node
    nodes = []
    pool._idle_s = 60
    for converter in held:
        pool.release(converter)
    pool._idle_s = 0
    for minimum in range(6, 0, -1):
        pool._minimum = minimum
        pool.shrink()
        nodes.append(cluster.ended[-1].node.name)

    assert nodes[0] == nodes[1] != nodes[2] == nodes[3]
    assert set(nodes[4:]) == {"node 0"}


async def test_a_converter_for_which_no_cpu_becomes_free_is_given_up_when_nobody_waits_any_more():
    cluster = Cluster()
    pool = cluster.pool(minimum=1, maximum=4, idle_s=0.05)
    await settle()
    cluster.starts.clear()
    held, *callers = acquire(pool, 3)
    await settle()
    assert (held.result(), pool.size) == (cluster.created[0], 3)
    for caller in callers:
        caller.cancel()
    await settle()

    pool.shrink()
    assert pool.size == 3  # the two others may still start at any moment

    await asyncio.sleep(0.1)
    pool.shrink()
    await settle()

    assert (pool.size, cluster.ended) == (1, cluster.created[1:])
    cluster.starts.set()
    (caller,) = acquire(pool, 1)
    await settle()
    assert (caller.done(), pool.size) == (True, 2)


async def test_a_converter_that_a_caller_waits_for_is_not_given_up():
    cluster = Cluster()
    cluster.starts.clear()
    pool = cluster.pool(minimum=0, maximum=4, idle_s=0)
    callers = acquire(pool, 2)
    await settle()

    pool.shrink()
    await settle()
    assert (pool.size, cluster.ended) == (2, [])

    cluster.starts.set()
    await asyncio.wait_for(asyncio.gather(*callers), 5)
