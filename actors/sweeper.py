"""The sweeper: it puts back jobs whose dispatcher died, and cleans up what is past its time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import timedelta
from typing import Any

from ray.util.metrics import Counter

from pixtools import logs
from pixtools.blob_store import BlobStore
from pixtools.database.connection import Database
from pixtools.database.job_store import JobStore
from pixtools.database.reconciler import Reconciler
from pixtools.database.retention_store import RetentionStore
from pixtools.errors import DatabaseDown, PixToolsError
from pixtools.redis.hints import MOVED, QUEUED, Hints
from pixtools.settings import Settings

log = logging.getLogger(__name__)

_MINUTE = timedelta(minutes=1)


class Sweeper:
    """One for the cluster is enough; two do no harm, since every rescue locks its job."""

    def __init__(self, settings: Settings, tend: Callable[[], None]) -> None:
        """`tend` sees to it that the dispatchers are there."""
        logs.to_stderr()
        self._beat = settings.beat
        self._tend = tend
        self._database = database = Database(settings, pool_size=2, name="sweeper")
        self._store = JobStore(database, settings)
        self._reconciler = Reconciler(settings, RetentionStore(database), BlobStore(settings))
        self._hints = Hints(settings)
        self._rescued = Counter("pixtools_rescued_total", "Jobs whose dispatcher was lost.")
        self._lost = Counter("pixtools_artifacts_lost_total", "Artifacts whose file was found missing.")
        self._orphans = Counter("pixtools_orphans_total", "Files deleted because nothing referred to them.")
        self._loops = [
            asyncio.create_task(self._each(settings.sweep, self._sweep)),
            asyncio.create_task(self._each(_MINUTE, lambda: asyncio.to_thread(self._tend))),
            # Soon after the start, for not every service runs for hours.
            asyncio.create_task(self._each(settings.reconcile, self._reconcile, first=settings.beat)),
        ]

    async def _each(
        self,
        interval: timedelta,
        turn: Callable[[], Coroutine[Any, Any, None]],
        first: timedelta | None = None,
    ) -> None:
        await asyncio.sleep((first or interval).total_seconds())
        while True:
            try:
                await turn()
            except DatabaseDown as error:
                log.warning("database down: %s", error)
                await self._wait_for_the_database()
            except PixToolsError as error:
                log.warning("sweep ended early: code=%s error=%s", error.code, error)
                await asyncio.sleep(min(interval, _MINUTE).total_seconds())
                continue
            except Exception:
                log.exception("sweep failed")
            await asyncio.sleep(interval.total_seconds())

    async def _wait_for_the_database(self) -> None:
        """Return when it has been back for a beat: those who hold jobs are to renew their leases first."""
        while True:
            await asyncio.sleep(1)
            with suppress(DatabaseDown):
                await asyncio.to_thread(self._database.ping)
                break
        await asyncio.sleep(self._beat.total_seconds())

    async def _sweep(self) -> None:
        rescued = await asyncio.to_thread(self._store.rescue)
        for job_id in rescued:
            log.warning("rescued: job=%s", job_id)
            await self._hints.publish(MOVED, str(job_id))
        if rescued:
            self._rescued.inc(len(rescued))
            await self._hints.publish(QUEUED)
        await asyncio.to_thread(self._store.forget_answers)

    async def _reconcile(self) -> None:
        done = await asyncio.to_thread(self._reconciler.run)
        if done.lost:
            self._lost.inc(done.lost)
        if done.orphans:
            self._orphans.inc(done.orphans)
