"""The sweeper: it puts back jobs whose dispatcher died, and forgets answers whose time is over."""

from __future__ import annotations

import asyncio
import logging

from pixtools import logs
from pixtools.errors import DatabaseDown
from pixtools.hints import MOVED, QUEUED, Hints
from pixtools.job_store import JobStore
from pixtools.settings import Settings

log = logging.getLogger(__name__)


class Sweeper:
    """One for the cluster is enough; two do no harm, since every rescue locks its job."""

    def __init__(self, settings: Settings) -> None:
        logs.to_stderr()
        self._settings = settings
        self._store = JobStore(settings, pool_size=1)
        self._hints = Hints(settings)
        self._loop = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        while True:
            try:
                await self._sweep()
            except DatabaseDown as error:
                # When it is back, those who hold jobs renew their leases first.
                log.warning("database down: %s", error)
                await asyncio.sleep(self._settings.beat.total_seconds())
            except Exception:
                log.exception("sweep failed")
            await asyncio.sleep(self._settings.sweep.total_seconds())

    async def _sweep(self) -> None:
        rescued = await asyncio.to_thread(self._store.rescue)
        for job_id in rescued:
            log.warning("rescued: job=%s", job_id)
            await self._hints.publish(MOVED, str(job_id))
        if rescued:
            await self._hints.publish(QUEUED)
        await asyncio.to_thread(self._store.forget_answers)
