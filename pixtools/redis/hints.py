"""Hints over Redis: that there is work, that a job moved. They may be lost; whoever listens polls as well."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

from pixtools.redis import client as redis_client
from pixtools.redis.client import UNANSWERED
from pixtools.settings import Settings

log = logging.getLogger(__name__)

QUEUED = "pixtools:queued"  # a job waits for a dispatcher
CANCELLED = "pixtools:cancelled"  # whoever runs a job is to stop; the message is its id
MOVED = "pixtools:moved"  # a job has a new version; the message is its id

_PAUSE_S = 1.0


class Hints:
    def __init__(self, settings: Settings) -> None:
        self._redis = redis_client.connect(settings)

    async def publish(self, channel: str, message: str = "") -> None:
        try:
            async with redis_client.patience():
                await self._redis.publish(channel, message)
        except UNANSWERED as error:
            log.warning("hint lost: channel=%s error=%s", channel, error)

    async def listen(self, channel: str) -> AsyncIterator[str]:
        """Yield the messages of a channel for ever; while Redis is away there are none."""
        while True:
            try:
                async with self._redis.pubsub(ignore_subscribe_messages=True) as pubsub:
                    await pubsub.subscribe(channel)
                    async for message in pubsub.listen():
                        yield message["data"]
            except UNANSWERED as error:
                log.warning("no hints: channel=%s error=%s", channel, error)
                await asyncio.sleep(_PAUSE_S)

    async def close(self) -> None:
        await self._redis.aclose()
