"""Serve's queues hold little of a body: the next messages wait until the application has taken the earlier ones."""

from __future__ import annotations

import asyncio
import pickle

import pytest

from serve.back_pressure import BoundedMessages, PacedReceive

pytestmark = pytest.mark.anyio

PIECE = {"type": "http.request", "body": bytes(200_000), "more_body": True}
GONE = {"type": "http.disconnect"}
SCOPE = {"type": "http"}


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_the_proxy_reads_on_when_the_replica_has_fetched():
    queue, taken = BoundedMessages(), 0

    async def read():
        nonlocal taken
        while True:
            await queue(PIECE)
            taken += 1

    reading = asyncio.create_task(read())
    await settled()
    assert taken == 2  # 400 kB
    assert queue.get_messages_nowait() == [PIECE] * 2
    await settled()
    assert taken == 4
    reading.cancel()


async def test_the_replica_fetches_when_the_application_has_taken_everything():
    fetched = 0

    async def fetch(_):
        nonlocal fetched
        fetched += 1
        return pickle.dumps([PIECE, PIECE] if fetched < 4 else [GONE])

    receive = PacedReceive(SCOPE, None, fetch)
    fetching = asyncio.create_task(receive.fetch_until_disconnect())
    await settled()
    assert fetched == 1
    assert await receive() == PIECE
    await settled()
    assert fetched == 1
    assert await receive() == PIECE
    await settled()
    assert fetched == 2

    assert [await receive() for _ in range(6)] == [PIECE] * 4 + [GONE] * 2
    await fetching
    assert await receive() == GONE


async def test_an_error_of_the_proxy_reaches_the_application():
    async def fetch(_):
        raise ConnectionError

    receive = PacedReceive(SCOPE, None, fetch)
    await receive.fetch_until_disconnect()
    with pytest.raises(ConnectionError):
        await receive()
