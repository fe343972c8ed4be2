"""The bounded queues hold a small part of a body. The rest of the body waits at the client."""

from __future__ import annotations

import asyncio
import pickle

import pytest

from serve.back_pressure import BoundedMessages, PacedDirectReceive, PacedReceive, Turns

pytestmark = pytest.mark.anyio

PIECE = {"type": "http.request", "body": bytes(200_000), "more_body": True}
GONE = {"type": "http.disconnect"}
SCOPE = {"type": "http"}


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_the_proxy_reads_on_when_the_replica_has_fetched():
    queue, taken = BoundedMessages(Turns()), 0

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


async def fetch(queue: BoundedMessages) -> list[dict]:
    await queue.wait_for_message()
    return queue.get_messages_nowait()


async def large(turns: Turns) -> BoundedMessages:
    """Return a queue from which the replica has fetched more than a megabyte. So its body needs a turn."""
    queue = BoundedMessages(turns)
    for _ in range(6):
        await queue(PIECE)
        await fetch(queue)
    await queue(PIECE)
    return queue


async def test_large_bodies_take_turns_and_small_bodies_need_none():
    turns = Turns()
    first, second, small = await large(turns), await large(turns), BoundedMessages(turns)
    assert await fetch(first) == [PIECE]
    waiting = asyncio.create_task(fetch(second))
    await small(PIECE)
    assert await fetch(small) == [PIECE]
    await settled()
    assert not waiting.done()

    asking = asyncio.create_task(fetch(first))  # asking for more means that the application has taken the piece
    assert await asyncio.wait_for(waiting, 5) == [PIECE]
    second.close()
    await first(PIECE)
    assert await asyncio.wait_for(asking, 5) == [PIECE]
    first.close()
    assert turns.is_free


@pytest.mark.parametrize(("bodies", "pause_s"), [(1, 0), (2, 0.4)])
async def test_a_pause_follows_a_turn_only_if_another_body_waits(bodies, pause_s):
    turns, loop = Turns(), asyncio.get_running_loop()
    await turns.begin()
    others = [asyncio.create_task(turns.begin()) for _ in range(bodies - 1)]
    await asyncio.sleep(0.4)
    ended = loop.time()
    turns.end()
    if bodies == 1:
        await turns.begin()
    await asyncio.gather(*others)

    assert pause_s - 0.05 <= loop.time() - ended < pause_s + 5


async def test_a_replica_that_hangs_loses_its_turn(monkeypatch):
    monkeypatch.setattr("serve.back_pressure._TURN_S", 0.1)
    turns = Turns()
    first, second = await large(turns), await large(turns)
    await fetch(first)

    assert await asyncio.wait_for(fetch(second), 5) == [PIECE]
    first.close()
    second.close()
    await asyncio.wait_for(turns.begin(), 5)
    assert not turns.is_free  # the turn was released exactly once


async def test_a_request_that_ends_while_it_waits_keeps_no_turn():
    turns = Turns()
    first, second = await large(turns), await large(turns)
    await fetch(first)
    waiting = asyncio.create_task(fetch(second))
    await settled()
    second.close()
    first.close()
    await asyncio.wait_for(waiting, 5)

    assert turns.is_free


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


async def test_the_news_that_the_client_has_gone_does_not_wait_for_room():
    queue = BoundedMessages(Turns())
    for _ in range(2):
        await queue(PIECE)
    waiting = asyncio.create_task(queue(PIECE))
    await settled()
    assert not waiting.done()

    await asyncio.wait_for(queue(GONE), 5)
    assert (await fetch(queue))[-1] == GONE
    await asyncio.wait_for(waiting, 5)


async def test_the_application_is_told_that_the_request_has_ended():
    answers = iter([pickle.dumps([PIECE]), pickle.dumps([])])

    async def fetch(_):
        try:
            return next(answers)
        except StopIteration:
            raise KeyError from None

    receive = PacedReceive(SCOPE, None, fetch)
    fetching = asyncio.create_task(receive.fetch_until_disconnect())
    assert await receive() == PIECE
    assert await asyncio.wait_for(receive(), 5) == GONE
    await fetching


async def test_an_error_of_the_proxy_reaches_the_application():
    async def fetch(_):
        raise ConnectionError

    receive = PacedReceive(SCOPE, None, fetch)
    await receive.fetch_until_disconnect()
    with pytest.raises(ConnectionError):
        await receive()


async def test_behind_haproxy_the_replica_reads_on_when_the_application_has_read():
    taken = 0

    async def receive():
        nonlocal taken
        taken += 1
        return PIECE

    queue = PacedDirectReceive(SCOPE, receive, asyncio.get_running_loop())
    fetching = queue.fetch_until_disconnect_task()
    for number in range(1, 4):
        await settled()
        assert taken == number
        assert await queue() == PIECE
    fetching.cancel()


async def test_behind_haproxy_a_client_that_leaves_after_its_body_is_noticed_at_once():
    messages = iter([PIECE, {**PIECE, "more_body": False}, GONE])

    async def receive():
        return next(messages)

    queue = PacedDirectReceive(SCOPE, receive, asyncio.get_running_loop())
    fetching = queue.fetch_until_disconnect_task()
    await queue()
    await asyncio.wait_for(fetching, 5)

    assert (await queue())["more_body"] is False
    assert await queue() == GONE
