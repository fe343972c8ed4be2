"""Hints through Redis pub/sub: a job or a delivery has news. A hint may be lost, so listeners also poll."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator

from pixtools.redis import client as redis_client
from pixtools.redis.client import REDIS_ERRORS, RedisOutageLog
from pixtools.retries import STORE_PAUSE_S
from pixtools.settings import Settings
from pixtools.states import JobState

QUEUED = "pixtools:queued"  # a job waits for a dispatcher
CANCELLED = "pixtools:cancelled"  # the dispatcher of the job has to stop; the message is the id of the job
DELIVERIES = "pixtools:deliveries"  # deliveries wait for a courier
CHANGED = "pixtools:moved"  # a job has a new version; the message is its id, and its state if the sender knows it


_STATES = frozenset(JobState)


def changed(job_id: uuid.UUID, state: JobState | None = None) -> str:
    """Return the message that a job has a new version. `state` is its state in this version, if the sender knows it."""
    return f"{job_id} {state}" if state else str(job_id)


def read_changed(message: str) -> tuple[str, JobState | None]:
    """Return the id and the state of a job from a message of the channel `CHANGED`."""
    job_id, _, state = message.partition(" ")
    # The sender may have another version of the code, with states that this version does not know.
    return job_id, JobState(state) if state in _STATES else None


class Hints:
    """Publishes hints and listens for them."""

    def __init__(self, settings: Settings, outages: RedisOutageLog = redis_client.OUTAGES) -> None:
        self._redis = redis_client.connect(settings)
        self._outages = outages

    async def publish(self, channel: str, *messages: str) -> None:
        """Send a hint for each message. If Redis does not answer within a second, they are lost without an error."""
        try:
            async with redis_client.timeout(), self._redis.pipeline(transaction=False) as pipeline:
                for message in messages:
                    pipeline.publish(channel, message)
                await pipeline.execute()
        except REDIS_ERRORS as error:
            self._outages.failed(error, f"publishing to {channel}")

    async def listen(self, channel: str) -> AsyncIterator[str]:
        """Yield the messages of a channel, forever. Messages that are sent while Redis is down are lost."""
        while True:
            try:
                async with self._redis.pubsub(ignore_subscribe_messages=True) as pubsub:
                    await pubsub.subscribe(channel)
                    async for message in pubsub.listen():
                        yield message["data"]
            except REDIS_ERRORS as error:
                self._outages.failed(error, f"listening to {channel}")
                await asyncio.sleep(STORE_PAUSE_S)

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()
