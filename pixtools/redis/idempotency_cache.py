"""Idempotency's fast path in Redis: who is accepting a key now, and what it was answered. Postgres is the truth.

All of it may vanish, or be out of reach, at any time: then every key looks free, and the job store decides.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
import secrets
import uuid
from typing import Any

from pixtools.database.job_store import Accepted, Idempotency, Scope
from pixtools.redis import client as redis_client
from pixtools.redis.client import UNANSWERED
from pixtools.settings import Settings

log = logging.getLogger(__name__)

_RESERVED_S = 10  # so long a key stays taken when whoever was accepting it has died
_DELETE_IF_OURS = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) else return 0 end"

_EXTEND_IF_OURS = (
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('EXPIRE', KEYS[1], ARGV[2]) else return 0 end"
)


class AnswerCache:
    def __init__(self, settings: Settings) -> None:
        self._ttl = settings.idempotency_ttl
        self._redis = redis_client.connect(settings)

    async def ping(self) -> bool:
        try:
            async with redis_client.patience():
                return bool(await self._redis.ping())
        except UNANSWERED:
            return False

    async def reserve(self, scope: Scope) -> str | None:
        """Take the key for the length of a request and return our token, or None if another request has it."""
        token = secrets.token_hex(8)
        try:
            async with redis_client.patience():
                return token if await self._redis.set(_name(scope), token, nx=True, ex=_RESERVED_S) else None
        except UNANSWERED as error:
            log.warning("no reservation: %s", error)
            return token

    async def hold(self, scope: Scope, token: str) -> None:
        """Keep a key reserved, until this is cancelled."""
        while True:
            await asyncio.sleep(_RESERVED_S / 3)
            try:
                async with redis_client.patience():
                    await self._redis.eval(_EXTEND_IF_OURS, 1, _name(scope), token, _RESERVED_S)
            except UNANSWERED as error:
                log.warning("reservation not held: %s", error)

    async def release(self, scope: Scope, token: str) -> None:
        """Free a key that was reserved by `token` and came to nothing."""
        try:
            async with redis_client.patience():
                await self._redis.eval(_DELETE_IF_OURS, 1, _name(scope), token)
        except UNANSWERED as error:
            log.warning("reservation left to expire: %s", error)

    async def answer(self, scope: Scope) -> tuple[str, Accepted] | None:
        """Return the fingerprint and the answer of a key that was served before, if it is still known."""
        try:
            async with redis_client.patience():
                text: Any = await self._redis.get(_name(scope))
        except UNANSWERED:
            return None
        if text is None or not text.startswith("{"):
            return None
        row = json.loads(text)
        return row["fingerprint"], Accepted(base64.b64decode(row["body"]), uuid.UUID(row["job_id"]), replayed=True)

    async def keep(self, request: Idempotency, accepted: Accepted) -> None:
        body = base64.b64encode(accepted.body).decode()
        row = {"fingerprint": request.fingerprint, "job_id": str(accepted.job_id), "body": body}
        try:
            async with redis_client.patience():
                await self._redis.set(_name(request.scope), json.dumps(row), ex=self._ttl)
        except UNANSWERED as error:
            log.warning("answer not cached: %s", error)

    async def close(self) -> None:
        await self._redis.aclose()


def _name(scope: Scope) -> str:
    digest = hashlib.sha256(json.dumps([scope.owner, scope.route, scope.key]).encode()).hexdigest()
    return f"pixtools:idempotency:{digest}"
