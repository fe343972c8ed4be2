"""The Redis client: how it connects, how long a call may take, and how an outage is logged.

All data in Redis may be lost. So a caller does not wait while Redis is down. It goes on without an answer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import redis
import redis.asyncio

from pixtools.logs import reason
from pixtools.settings import Settings

log = logging.getLogger(__name__)

_TIMEOUT_S = 1.0
_LOG_INTERVAL_S = 30.0  # between two log lines about an outage

DELETE_IF_OURS = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) else return 0 end"
"""The script that deletes a reservation only if it still has our token."""

REDIS_ERRORS = (redis.RedisError, OSError)
"""The errors that a call raises if Redis does not answer. OSError includes TimeoutError."""


def connect(settings: Settings) -> redis.asyncio.Redis:
    """Return a client. The client connects with its first call."""
    return redis.asyncio.Redis.from_url(
        settings.redis_url.get_secret_value(),
        decode_responses=True,
        socket_connect_timeout=_TIMEOUT_S,
        # With a socket timeout, redis-py uses asyncio.wait_for. In Python 3.11, wait_for ignores a cancellation that
        # arrives together with the response. Then the cancelled task would run forever.
        socket_timeout=None,
    )


def connect_blocking(settings: Settings) -> redis.Redis:
    """Return a client for threads. A call takes at most one second to connect, and one second for the answer."""
    return redis.Redis.from_url(
        settings.redis_url.get_secret_value(),
        decode_responses=True,
        socket_connect_timeout=_TIMEOUT_S,
        socket_timeout=_TIMEOUT_S,
    )


def timeout() -> asyncio.Timeout:
    """Return a context that limits a call to one second. After this second, the context raises TimeoutError."""
    return asyncio.timeout(_TIMEOUT_S)


class RedisOutageLog:
    """A log of calls that Redis did not answer: at most one line in 30 s. All clients of a process share one log."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` returns seconds."""
        self._clock = clock
        self._logged_at: float | None = None

    def failed(self, error: BaseException, doing: str) -> None:
        """Log a failed call, unless the last line is less than 30 s old. `doing` says what the call was for."""
        now = self._clock()
        if self._logged_at is not None and now - self._logged_at < _LOG_INTERVAL_S:
            return
        self._logged_at = now
        why = f"no response within {_TIMEOUT_S:.0f} s" if isinstance(error, TimeoutError) else reason(error)
        log.warning("redis does not answer: doing=%s reason=%s", doing, why)


OUTAGES = RedisOutageLog()
"""The outage log of this process."""
