"""The sweeper: returns the jobs of dead dispatchers to the queue, and deletes expired records and files."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

from ray.util.metrics import Counter

from pixtools import logs
from pixtools.database.job_store import JobStore
from pixtools.database.reconciler import Reconciler
from pixtools.errors import DatabaseDown, PixToolsError
from pixtools.redis.hints import CHANGED, QUEUED, Hints, changed
from pixtools.settings import Settings
from pixtools.waiting import until_database_answers

log = logging.getLogger(__name__)

_MINUTE = timedelta(minutes=1)


class Sweeper:
    """Runs the periodic tasks of a cluster. `start` begins the loops.

    One sweeper is enough. Two sweepers do no harm, because every rescue locks its job.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        store: JobStore,
        reconciler: Reconciler,
        hints: Hints,
        ping: Callable[[], None],
        ensure_dispatchers: Callable[[], None],
        has_webhooks: Callable[[], bool],
        ensure_couriers: Callable[[], None],
    ) -> None:
        """`ping` raises DatabaseDown while the database is down. `ensure_dispatchers` starts missing dispatchers.

        When `has_webhooks` first returns true, and then from time to time, `ensure_couriers` starts missing couriers.
        """
        self._settings = settings
        self._store = store
        self._reconciler = reconciler
        self._hints = hints
        self._ping = ping
        self._ensure_dispatchers = ensure_dispatchers
        self._has_webhooks = has_webhooks
        self._ensure_couriers = ensure_couriers
        self._needs_couriers = False
        self._rescued = Counter("pixtools_rescued_total", "Jobs whose dispatcher was lost.")
        self._lost = Counter("pixtools_artifacts_lost_total", "Artifacts whose file was found missing.")
        self._orphans = Counter("pixtools_orphans_total", "Files deleted because nothing referred to them.")
        self._loops: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to rescue jobs, to check the actors and to reconcile the stores, and return at once."""
        settings = self._settings
        # Reconcile for the first time soon after the start, because some services run for less than an hour.
        self._loops = [
            asyncio.create_task(self._every(settings.sweep_interval, self._sweep)),
            asyncio.create_task(self._every(_MINUTE, self._check_actors)),
            asyncio.create_task(
                self._every(settings.reconcile_interval, self._reconcile, first=settings.renew_interval)
            ),
        ]

    async def _every(
        self,
        interval: timedelta,
        turn: Callable[[], Coroutine[Any, Any, None]],
        first: timedelta | None = None,
    ) -> None:
        """Run `turn` again and again, after a pause of `interval` each time. If given, `first` is the first pause."""
        await asyncio.sleep((first or interval).total_seconds())
        while True:
            pause = interval
            try:
                await self._take_turn(turn)
            except PixToolsError as error:
                log.warning("sweep ended early: code=%s error=%s", error.code, error)
                pause = min(interval, _MINUTE)
            except Exception:
                log.exception("sweep failed")
            await asyncio.sleep(pause.total_seconds())

    async def _take_turn(self, turn: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run `turn`. If the database does not answer, wait until it answers. All other errors are raised."""
        try:
            await turn()
        except DatabaseDown as error:
            await self._wait_for_database(error)

    async def _wait_for_database(self, error: DatabaseDown) -> None:
        """Wait until the outage has ended. Then wait for one renew interval, so that dispatchers renew their leases."""
        await until_database_answers(lambda: asyncio.to_thread(self._ping), doing="sweeping", after=error)
        await asyncio.sleep(self._settings.renew_interval.total_seconds())

    async def _sweep(self) -> None:
        """Rescue jobs whose lease ran out, and delete stored responses that are too old for a replay."""
        rescued = await asyncio.to_thread(self._store.rescue)
        for job_id in rescued:
            with logs.about(job_id=job_id):
                log.warning("rescued")
            await self._hints.publish(CHANGED, changed(job_id))
        if rescued:
            self._rescued.inc(len(rescued))
            await self._hints.publish(QUEUED, "")
        await asyncio.to_thread(self._store.delete_expired_responses)
        if not self._needs_couriers and await asyncio.to_thread(self._has_webhooks):
            await asyncio.to_thread(self._ensure_couriers)
            self._needs_couriers = True

    async def _check_actors(self) -> None:
        await asyncio.to_thread(self._ensure_dispatchers)
        if self._needs_couriers:
            await asyncio.to_thread(self._ensure_couriers)

    async def _reconcile(self) -> None:
        reconciled = await asyncio.to_thread(self._reconciler.run)
        if reconciled.lost:
            self._lost.inc(reconciled.lost)
        if reconciled.orphans:
            self._orphans.inc(reconciled.orphans)
