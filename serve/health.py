"""Health checks. Jobs need Postgres and S3. Without Redis, jobs are accepted but may start later."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from importlib.metadata import version
from typing import Any, Literal

from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from actors import fleet
from pixtools.blob_store import BlobStore
from pixtools.database.connection import Database
from pixtools.database.job_store import JobStore
from pixtools.errors import DatabaseDown, Fault, NotReady, PixToolsError
from pixtools.redis.key_reservations import KeyReservations
from pixtools.settings import Settings
from pixtools.waiting import wait_at_most
from serve.admission import Admission
from serve.recent_result import RecentResult

_PING_TIMEOUT_S = 5.0

# Everyone may call these checks, so their cost must not grow with the number of requests.
_MAX_AGE_S = 2.0

State = Literal["up", "down"]


class Readiness(BaseModel):
    """The state of each server that the ingress uses."""

    database: State
    storage: State
    redis: State


class HealthAnswer(BaseModel):
    """The state of the service.

    `backlog` counts the queued and the running jobs. `queued_megapixels` is the work of the queued jobs; it is counted
    up to PIXTOOLS_MAX_QUEUED_JOBS jobs. `oldest_queued_s` tells how long ago the oldest queued job became available.
    Without the database, all three are null. `free_bytes` is the free space of the fullest of the folders that this
    ingress watches.
    """

    version: str
    parts: Readiness  # the state of each component
    backlog: dict[str, int] | None
    queued_megapixels: float | None
    oldest_queued_s: float | None
    free_bytes: int | None
    dispatchers: list[dict[str, Any] | None]
    couriers: list[dict[str, Any] | None]  # empty until the first webhook


class Health:
    """Checks the components that this ingress replica uses. A result is used for two seconds."""

    def __init__(
        self,
        database: Database,
        store: JobStore,
        blobs: BlobStore,
        reservations: KeyReservations,
        admission: Admission,
        settings: Settings,
    ) -> None:
        self._database = database
        self._store = store
        self._blobs = blobs
        self._reservations = reservations
        self._admission = admission
        self._settings = settings
        self._components = RecentResult(self._check_components, _MAX_AGE_S)
        self._report = RecentResult(self._check_everything, _MAX_AGE_S)

    async def require_ready(self) -> Readiness:
        """Return the state of each component. Raises NotReady if the database or the object storage is down."""
        components = await self._components.get()
        down = [name for name in ("database", "storage") if getattr(components, name) == "down"]
        if down:
            faults = tuple(Fault(f"/{name}", "does not answer") for name in down)
            raise NotReady(f"Down: {', '.join(down)}.", faults)
        return components

    async def report(self) -> HealthAnswer:
        """Return the state of each component, the backlog, the free space, dispatchers and couriers."""
        return await self._report.get()

    async def _check_everything(self) -> HealthAnswer:
        components, dispatchers, couriers = await asyncio.gather(
            self._components.get(), fleet.stats(self._settings), fleet.courier_stats(self._settings)
        )
        # Do not ask a database that is down: waiting for its answer would delay the whole report.
        backlog, megapixels, oldest_s = await self._backlog() if components.database == "up" else (None, None, None)
        return HealthAnswer(
            version=version("pixtools"),
            parts=components,
            backlog=backlog,
            queued_megapixels=megapixels,
            oldest_queued_s=oldest_s,
            free_bytes=await run_in_threadpool(self._admission.least_free_bytes),
            dispatchers=dispatchers,
            couriers=couriers,
        )

    async def _check_components(self) -> Readiness:
        database, storage, redis = await asyncio.gather(
            _answers(run_in_threadpool(self._database.ping)),
            _answers(run_in_threadpool(self._blobs.ping)),
            self._reservations.ping(),
        )
        return Readiness(database=_state(up=database), storage=_state(up=storage), redis=_state(up=redis))

    async def _backlog(self) -> tuple[dict[str, int], float, float] | tuple[None, None, None]:
        """Return the numbers of unfinished jobs, the megapixels of the queued jobs, and the age of the oldest one."""
        try:
            load = await self._admission.load()
            backlog = await run_in_threadpool(self._store.backlog)
            return backlog, load.pixels / 1e6, await run_in_threadpool(self._store.oldest_queued_s)
        except DatabaseDown:
            return None, None, None


async def _answers(ping: Awaitable[None]) -> bool:
    try:
        return await wait_at_most(ping, _PING_TIMEOUT_S)
    except (PixToolsError, TimeoutError):
        return False


def _state(*, up: bool) -> State:
    return "up" if up else "down"
