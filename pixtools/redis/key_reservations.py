"""Reservations of idempotency keys in Redis, while the requests with these keys are being accepted.

A reservation only saves work: while one request with a key is being accepted, no other request with this key is
uploaded. A unique key in Postgres decides whether an idempotency key is free, and Postgres keeps the responses. If
Redis is down, full or was emptied, every key can be reserved, and Postgres finds the earlier request.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets

from pixtools.jobs.submission import IdempotencyScope
from pixtools.redis import client as redis_client
from pixtools.redis.client import DELETE_IF_OURS, REDIS_ERRORS, RedisOutageLog
from pixtools.settings import Settings

_RESERVATION_S = 10  # a reservation ends after this time if the process that accepts the request dies

_EXTEND_IF_OURS = (
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('EXPIRE', KEYS[1], ARGV[2]) else return 0 end"
)


class KeyReservations:
    """Reserves idempotency keys."""

    def __init__(self, settings: Settings, outages: RedisOutageLog = redis_client.OUTAGES) -> None:
        self._redis = redis_client.connect(settings)
        self._outages = outages

    async def ping(self) -> bool:
        """Return whether Redis answers within a second."""
        try:
            async with redis_client.timeout():
                return bool(await self._redis.ping())
        except REDIS_ERRORS:
            return False

    async def reserve(self, scope: IdempotencyScope) -> str | None:
        """Reserve a key for one request. Return the token of the reservation, or None if another request has it."""
        token = secrets.token_hex(8)
        try:
            async with redis_client.timeout():
                return token if await self._redis.set(_name(scope), token, nx=True, ex=_RESERVATION_S) else None
        except REDIS_ERRORS as error:
            self._outages.failed(error, "reserving an idempotency key")
            return token

    async def hold(self, scope: IdempotencyScope, token: str) -> None:
        """Extend a reservation again and again, until this task is cancelled."""
        while True:
            await asyncio.sleep(_RESERVATION_S / 3)
            try:
                async with redis_client.timeout():
                    await self._redis.eval(_EXTEND_IF_OURS, 1, _name(scope), token, _RESERVATION_S)
            except REDIS_ERRORS as error:
                self._outages.failed(error, "extending an idempotency reservation")

    async def release(self, scope: IdempotencyScope, token: str) -> None:
        """End the reservation with this token. The reservation of another request stays."""
        try:
            async with redis_client.timeout():
                await self._redis.eval(DELETE_IF_OURS, 1, _name(scope), token)
        except REDIS_ERRORS as error:
            self._outages.failed(error, "releasing an idempotency key")

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()


def _name(scope: IdempotencyScope) -> str:
    """Return the name of the key in Redis. The name is a digest, so that Redis does not reveal idempotency keys."""
    digest = hashlib.sha256(json.dumps([scope.owner, scope.route, scope.key]).encode()).hexdigest()
    return f"pixtools:reserved:{digest}"
