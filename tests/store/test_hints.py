"""Hints arrive while Redis is up. A lost hint is never an error."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator

import pytest
import redis

from pixtools.redis.client import RedisOutageLog
from pixtools.redis.hints import Hints, changed, read_changed
from pixtools.states import JobState

pytestmark = pytest.mark.anyio


class Listener:
    """A listener that collects the messages of a channel."""

    def __init__(self, hints: Hints, channel: str) -> None:
        self._hints = hints
        self._channel = channel
        self.messages: list[str] = []
        self.task = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        async for message in self._hints.listen(self._channel):
            self.messages.append(message)

    async def receives(self, message: str, timeout_s: float = 10) -> None:
        """Publish a message again and again until it arrives. Redis drops messages from before the subscription."""
        async with asyncio.timeout(timeout_s):
            while message not in self.messages:
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


async def test_messages_arrive_in_order(hints, listener):
    await listener.receives("first")
    listener.messages.clear()

    for number in range(5):
        await hints.publish(listener._channel, str(number))
    await listener.receives("last")

    assert listener.messages[:5] == ["0", "1", "2", "3", "4"]


async def test_messages_of_other_channels_do_not_arrive(hints, listener):
    await listener.receives("first")

    await hints.publish("another channel", "elsewhere")
    await listener.receives("last")

    assert "elsewhere" not in listener.messages


async def test_every_listener_receives_a_message(hints, listener):
    other = Listener(hints, listener._channel)
    await other.receives("ready")
    await listener.receives("ready")

    await hints.publish(listener._channel, "both")
    await listener.receives("last")
    await other.receives("last")

    assert "both" in listener.messages
    assert "both" in other.messages
    other.task.cancel()
    await asyncio.gather(other.task, return_exceptions=True)


async def test_a_listener_reconnects_after_its_connection_is_lost(settings, listener):
    await listener.receives("before")
    with redis.Redis.from_url(settings.redis_url.get_secret_value()) as client:
        assert client.execute_command("CLIENT", "KILL", "TYPE", "pubsub") >= 1

    await listener.receives("after")

    assert not listener.task.done()


async def test_a_listener_waits_longer_than_the_timeout_of_other_calls(listener):
    await listener.receives("before")

    await asyncio.sleep(1.5)

    assert not listener.task.done()
    await listener.receives("after", timeout_s=1)


async def test_without_redis_no_message_arrives_and_nothing_fails(nowhere, caplog):
    hints = Hints(nowhere, RedisOutageLog())
    listener = Listener(hints, "channel")

    with caplog.at_level(logging.WARNING):
        await hints.publish("channel", "lost")
        await asyncio.sleep(0.1)

    assert listener.messages == []
    assert not listener.task.done()
    (line,) = caplog.messages  # one log line for the whole outage
    assert line.startswith("redis does not answer: doing=publishing to channel reason=")
    assert "refused" in line or "Connect call failed" in line
    listener.task.cancel()
    await asyncio.gather(listener.task, return_exceptions=True)
    await hints.close()


async def test_a_cancellation_is_never_swallowed(hints):
    """`Hints` does not use the time limit of the client library.

    That limit would swallow a cancellation that arrives together with the response.
    """

    async def publish() -> None:
        while True:
            await hints.publish("channel", "")

    for moment in range(200):
        task = asyncio.create_task(publish())
        for _ in range(moment % 40):
            await asyncio.sleep(0)
        task.cancel()
        for _ in range(200):
            await asyncio.sleep(0)
        done, _ = await asyncio.wait([task], timeout=1)
        assert done


def test_a_state_that_this_version_does_not_know_is_left_out():
    job_id = uuid.uuid4()

    assert read_changed(changed(job_id, JobState.RUNNING)) == (str(job_id), JobState.RUNNING)
    assert read_changed(changed(job_id)) == (str(job_id), None)
    assert read_changed(f"{job_id} dreaming") == (str(job_id), None)
