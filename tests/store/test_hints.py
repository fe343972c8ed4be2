"""Hints arrive while Redis is there, and their loss is never an error."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator

import pytest
import redis

from pixtools.redis.hints import Hints

pytestmark = pytest.mark.anyio


class Listener:
    """Somebody who listens to a channel and notes what comes."""

    def __init__(self, hints: Hints, channel: str) -> None:
        self._hints = hints
        self._channel = channel
        self.heard: list[str] = []
        self.task = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        async for message in self._hints.listen(self._channel):
            self.heard.append(message)

    async def hears(self, message: str, patience: float = 10) -> None:
        """Publish until the listener has heard it: of a hint published before it listens nothing is heard."""
        async with asyncio.timeout(patience):
            while message not in self.heard:
                await self._hints.publish(self._channel, message)
                await asyncio.sleep(0.02)


@pytest.fixture
async def hints(settings) -> AsyncIterator[Hints]:
    hints = Hints(settings)
    yield hints
    await hints.close()


@pytest.fixture
async def listener(hints) -> AsyncIterator[Listener]:
    listener = Listener(hints, uuid.uuid4().hex)
    yield listener
    listener.task.cancel()
    await asyncio.gather(listener.task, return_exceptions=True)


async def test_what_is_published_is_heard_in_order(hints, listener):
    await listener.hears("first")
    listener.heard.clear()

    for number in range(5):
        await hints.publish(listener._channel, str(number))
    await listener.hears("last")

    assert listener.heard[:5] == ["0", "1", "2", "3", "4"]


async def test_other_channels_are_not_heard(hints, listener):
    await listener.hears("first")

    await hints.publish("another channel", "elsewhere")
    await listener.hears("last")

    assert "elsewhere" not in listener.heard


async def test_all_who_listen_hear(hints, listener):
    other = Listener(hints, listener._channel)
    await other.hears("ready")
    await listener.hears("ready")

    await hints.publish(listener._channel, "both")
    await listener.hears("last")
    await other.hears("last")

    assert "both" in listener.heard
    assert "both" in other.heard
    other.task.cancel()
    await asyncio.gather(other.task, return_exceptions=True)


async def test_a_listener_outlives_the_loss_of_its_connection(settings, listener):
    await listener.hears("before")
    with redis.Redis.from_url(settings.redis_url.get_secret_value()) as client:
        assert client.execute_command("CLIENT", "KILL", "TYPE", "pubsub") >= 1

    await listener.hears("after")

    assert not listener.task.done()


async def test_a_listener_waits_as_long_as_it_takes(listener):
    await listener.hears("before")

    await asyncio.sleep(1.5)  # longer than the time limit of other calls

    assert not listener.task.done()
    await listener.hears("after", patience=1)


async def test_without_redis_nobody_hears_and_nothing_fails(nowhere, caplog):
    hints = Hints(nowhere)
    listener = Listener(hints, "channel")

    with caplog.at_level(logging.WARNING):
        await hints.publish("channel", "lost")
        await asyncio.sleep(0.1)

    assert listener.heard == []
    assert not listener.task.done()
    assert "hint lost: channel=channel" in caplog.text
    listener.task.cancel()
    await asyncio.gather(listener.task, return_exceptions=True)
    await hints.close()


async def test_a_cancellation_is_never_swallowed(hints):
    """Whenever it comes: as the answer does, the client library's own time limit would swallow it."""

    async def publish() -> None:
        while True:
            await hints.publish("channel")

    for moment in range(200):
        task = asyncio.create_task(publish())
        for _ in range(moment % 40):
            await asyncio.sleep(0)
        task.cancel()
        for _ in range(200):
            await asyncio.sleep(0)
        done, _ = await asyncio.wait([task], timeout=1)
        assert done
