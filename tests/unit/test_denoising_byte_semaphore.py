"""Places: so many bytes at a time, first come, first served, and nobody for ever outside."""

from __future__ import annotations

import asyncio

import pytest

from pixtools.denoising.byte_semaphore import Places

pytestmark = pytest.mark.anyio


async def visit(places: Places, bytes_: int, inside: list[int], leave: asyncio.Event) -> None:
    async with places.of(bytes_) as place:
        while not await place.comes_within(0.001):
            pass
        inside.append(bytes_)
        await leave.wait()


async def test_as_many_are_let_in_as_there_are_bytes_for_in_the_order_in_which_they_came():
    places, inside, leaves = Places(100), [], [asyncio.Event() for _ in range(4)]
    visits = [
        asyncio.create_task(visit(places, bytes_, inside, leave))
        for bytes_, leave in zip((60, 30, 50, 5), leaves, strict=True)
    ]
    await asyncio.sleep(0.02)
    assert inside == [60, 30]  # the last would fit, and waits its turn

    leaves[0].set()
    await asyncio.sleep(0.02)
    assert inside == [60, 30, 50, 5]

    for leave in leaves:
        leave.set()
    await asyncio.gather(*visits)


async def test_what_is_larger_than_all_places_goes_in_alone():
    places, inside, leaves = Places(100), [], [asyncio.Event(), asyncio.Event()]
    visits = [
        asyncio.create_task(visit(places, bytes_, inside, leave))
        for bytes_, leave in zip((10, 1000), leaves, strict=True)
    ]
    await asyncio.sleep(0.02)
    assert inside == [10]

    leaves[0].set()
    await asyncio.sleep(0.02)
    assert inside == [10, 1000]
    leaves[1].set()
    await asyncio.gather(*visits)


async def test_who_gives_up_waiting_keeps_nobody_out():
    places, inside, leave = Places(100), [], asyncio.Event()
    first = asyncio.create_task(visit(places, 90, inside, leave))
    await asyncio.sleep(0.01)
    waiting = asyncio.create_task(visit(places, 50, inside, leave))
    await asyncio.sleep(0.01)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)

    third = asyncio.create_task(visit(places, 10, inside, leave))
    await asyncio.sleep(0.02)

    assert inside == [90, 10]
    leave.set()
    await asyncio.gather(first, third)
