"""Requests for bytes are granted up to the limit, in the order of their arrival. No request waits for ever."""

from __future__ import annotations

import asyncio

import pytest

from pixtools.denoising.byte_semaphore import ByteSemaphore

pytestmark = pytest.mark.anyio


async def hold(semaphore: ByteSemaphore, bytes_: int, granted: list[int], release: asyncio.Event) -> None:
    """Reserve `bytes_` bytes. Once they are granted, add the number to `granted`. Keep them until `release` is set."""
    async with semaphore.reserve(bytes_) as reservation:
        while not await reservation.granted_within(0.001):
            pass
        granted.append(bytes_)
        await release.wait()


async def test_bytes_are_granted_up_to_the_limit_in_the_order_of_the_requests():
    semaphore, granted, releases = ByteSemaphore(100), [], [asyncio.Event() for _ in range(4)]
    holders = [
        asyncio.create_task(hold(semaphore, bytes_, granted, release))
        for bytes_, release in zip((60, 30, 50, 5), releases, strict=True)
    ]
    await asyncio.sleep(0.02)
    assert granted == [60, 30]  # the request of 5 bytes would fit, but the request of 50 comes first

    releases[0].set()
    await asyncio.sleep(0.02)
    assert granted == [60, 30, 50, 5]

    for release in releases:
        release.set()
    await asyncio.gather(*holders)


async def test_a_reservation_above_the_limit_is_granted_alone():
    semaphore, granted, releases = ByteSemaphore(100), [], [asyncio.Event(), asyncio.Event()]
    holders = [
        asyncio.create_task(hold(semaphore, bytes_, granted, release))
        for bytes_, release in zip((10, 1000), releases, strict=True)
    ]
    await asyncio.sleep(0.02)
    assert granted == [10]

    releases[0].set()
    await asyncio.sleep(0.02)
    assert granted == [10, 1000]
    releases[1].set()
    await asyncio.gather(*holders)


async def test_a_cancelled_request_does_not_block_later_ones():
    semaphore, granted, release = ByteSemaphore(100), [], asyncio.Event()
    first = asyncio.create_task(hold(semaphore, 90, granted, release))
    await asyncio.sleep(0.01)
    waiting = asyncio.create_task(hold(semaphore, 50, granted, release))
    await asyncio.sleep(0.01)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)

    third = asyncio.create_task(hold(semaphore, 10, granted, release))
    await asyncio.sleep(0.02)

    assert granted == [90, 10]
    release.set()
    await asyncio.gather(first, third)
