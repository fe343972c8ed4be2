"""Which parts are up. Jobs need Postgres and S3; without Redis they are accepted all the same, only slower."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal

from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from actors import fleet
from pixtools.blob_store import BlobStore
from pixtools.database.connection import Database
from pixtools.database.job_store import JobStore
from pixtools.errors import DatabaseDown, Fault, NotReady, PixToolsError
from pixtools.redis.idempotency_cache import AnswerCache
from pixtools.settings import Settings

_PATIENCE_S = 5.0

State = Literal["up", "down"]


class Readiness(BaseModel):
    database: State
    storage: State
    redis: State


class HealthAnswer(BaseModel):
    version: str
    parts: Readiness
    backlog: dict[str, int] | None
    dispatchers: list[dict[str, Any] | None]


@dataclass(frozen=True)
class Health:
    database: Database
    store: JobStore
    blobs: BlobStore
    answers: AnswerCache
    settings: Settings

    async def require_ready(self) -> Readiness:
        """Return the state of the parts; raises NotReady if one is down that jobs cannot do without."""
        parts = await self._parts()
        down = [name for name in ("database", "storage") if getattr(parts, name) == "down"]
        if down:
            faults = tuple(Fault(f"/{name}", "does not answer") for name in down)
            raise NotReady(f"Down: {', '.join(down)}.", faults)
        return parts

    async def report(self) -> HealthAnswer:
        parts, backlog, dispatchers = await asyncio.gather(self._parts(), self._backlog(), fleet.facts(self.settings))
        return HealthAnswer(version=version("pixtools"), parts=parts, backlog=backlog, dispatchers=dispatchers)

    async def _parts(self) -> Readiness:
        database, storage, redis = await asyncio.gather(
            _answers(run_in_threadpool(self.database.ping)),
            _answers(run_in_threadpool(self.blobs.ping)),
            self.answers.ping(),
        )
        return Readiness(database=_state(up=database), storage=_state(up=storage), redis=_state(up=redis))

    async def _backlog(self) -> dict[str, int] | None:
        try:
            return await run_in_threadpool(self.store.backlog)
        except DatabaseDown:
            return None


async def _answers(ping: Awaitable[None]) -> bool:
    try:
        async with asyncio.timeout(_PATIENCE_S):
            await ping
    except (PixToolsError, TimeoutError):
        return False
    return True


def _state(*, up: bool) -> State:
    return "up" if up else "down"
