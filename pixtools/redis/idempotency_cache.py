"""The idempotency cache in Redis: the keys of requests that are being accepted, and the responses to earlier requests.

The cache only saves time. A unique key in Postgres decides whether an idempotency key is free. If Redis is down or was
emptied, every idempotency key seems to be free, and Postgres finds the earlier request.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import secrets
import uuid
from typing import Any

from pixtools.jobs.submission import Accepted, Idempotency, IdempotencyScope
from pixtools.redis import client as redis_client
from pixtools.redis.client import REDIS_ERRORS, RedisOutageLog
from pixtools.settings import Settings

_RESERVATION_S = 10  # a reservation ends after this time if the process that accepts the request dies

_DELETE_IF_OURS = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) else return 0 end"

_EXTEND_IF_OURS = (
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('EXPIRE', KEYS[1], ARGV[2]) else return 0 end"
)


class IdempotencyCache:
    """Reserves idempotency keys and caches responses."""

    def __init__(self, settings: Settings, outages: RedisOutageLog = redis_client.OUTAGES) -> None:
        self._ttl = settings.idempotency_ttl
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
        """Reserve a key for one request. Return the token of the reservation, or None if the key is taken.

        A key is taken if another request has reserved it, or if a response for this key is cached.
        """
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
        """End the reservation with this token. If a response was cached meanwhile, the response stays."""
        try:
            async with redis_client.timeout():
                await self._redis.eval(_DELETE_IF_OURS, 1, _name(scope), token)
        except REDIS_ERRORS as error:
            self._outages.failed(error, "releasing an idempotency key")

    async def get(self, scope: IdempotencyScope) -> tuple[str, Accepted] | None:
        """Return the fingerprint and the response of the first request with a key, or None if no response is cached."""
        try:
            async with redis_client.timeout():
                text: Any = await self._redis.get(_name(scope))
        except REDIS_ERRORS as error:
            self._outages.failed(error, "reading a cached response")
            return None
        if text is None or not text.startswith("{"):  # not JSON, so this is the token of a reservation
            return None
        row = json.loads(text)
        return row["fingerprint"], Accepted(base64.b64decode(row["body"]), uuid.UUID(row["job_id"]), replayed=True)

    async def put(self, request: Idempotency, response: Accepted) -> None:
        """Cache the response to a request. The response replaces the reservation of the key."""
        body = base64.b64encode(response.body).decode()
        row = {"fingerprint": request.fingerprint, "job_id": str(response.job_id), "body": body}
        try:
            async with redis_client.timeout():
                await self._redis.set(_name(request.scope), json.dumps(row), ex=self._ttl)
        except REDIS_ERRORS as error:
            self._outages.failed(error, "caching a response")

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()


def _name(scope: IdempotencyScope) -> str:
    """Return the name of the key in Redis. The name is a digest, so that Redis does not reveal idempotency keys."""
    digest = hashlib.sha256(json.dumps([scope.owner, scope.route, scope.key]).encode()).hexdigest()
    return f"pixtools:idempotency:{digest}"
