"""Hints over Redis: that there is work, that a job moved. They may be lost; whoever listens polls as well."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import redis
import redis.asyncio

from pixtools.settings import Settings

log = logging.getLogger(__name__)

QUEUED = "pixtools:queued"  # a job waits for a dispatcher
MOVED = "pixtools:moved"  # a job has a new version; the message is its id

_TIMEOUT_S = 1.0


class Hints:
    def __init__(self, settings: Settings) -> None:
        url = settings.redis_url.get_secret_value()
        options: dict[str, Any] = {"socket_connect_timeout": _TIMEOUT_S, "decode_responses": True}
        self._publisher = redis.asyncio.Redis.from_url(url, socket_timeout=_TIMEOUT_S, **options)
        self._subscriber = redis.asyncio.Redis.from_url(url, **options)  # waits as long as it takes

    async def publish(self, channel: str, message: str = "") -> None:
        try:
            await self._publisher.publish(channel, message)
        except (redis.RedisError, OSError) as error:
            log.warning("hint lost: channel=%s error=%s", channel, error)

    async def listen(self, channel: str) -> AsyncIterator[str]:
        """Yield the messages of a channel for ever; while Redis is away there are none."""
        while True:
            try:
                async with self._subscriber.pubsub(ignore_subscribe_messages=True) as pubsub:
                    await pubsub.subscribe(channel)
                    async for message in pubsub.listen():
                        yield message["data"]
            except (redis.RedisError, OSError) as error:
                log.warning("no hints: channel=%s error=%s", channel, error)
                await asyncio.sleep(_TIMEOUT_S)

    async def close(self) -> None:
        await self._publisher.aclose()
        await self._subscriber.aclose()
