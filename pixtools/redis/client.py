"""How Redis is asked: with little patience, for all that it knows may be forgotten."""

from __future__ import annotations

import asyncio

import redis
import redis.asyncio

from pixtools.settings import Settings

_PATIENCE_S = 1.0

UNANSWERED = (redis.RedisError, OSError)  # TimeoutError is of the latter


def connect(settings: Settings) -> redis.asyncio.Redis:
    return redis.asyncio.Redis.from_url(
        settings.redis_url.get_secret_value(),
        decode_responses=True,
        socket_connect_timeout=_PATIENCE_S,
        # With one, redis-py uses asyncio.wait_for, which in Python 3.11 swallows a cancellation that comes as the
        # answer does; then whoever asked runs on for ever.
        socket_timeout=None,
    )


def patience() -> asyncio.Timeout:
    """Bound a call: what is not answered in time raises one of UNANSWERED."""
    return asyncio.timeout(_PATIENCE_S)
