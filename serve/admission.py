"""Admission: decides whether the service has room for a new job. A full service refuses new jobs at once."""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
from pathlib import Path

from starlette.concurrency import run_in_threadpool

from pixtools.database.job_store import JobStore
from pixtools.errors import ServiceFull
from pixtools.jobs.views import QueueLoad
from pixtools.settings import Settings
from serve.recent_result import RecentResult

log = logging.getLogger(__name__)

_FRESH_S = 1.0  # how long a reading of the queue and of the disks is used


class Admission:
    """Refuses new jobs while the queue is long or a disk is almost full.

    Each ingress replica reads the queue and the disks at most once a second, and only while requests arrive. Between
    two readings, the replica adds the jobs that it has accepted itself. Jobs that other replicas accept within the same
    second, and requests that are being received, may exceed the limits.
    """

    def __init__(self, settings: Settings, store: JobStore) -> None:
        self._settings = settings
        self._store = store
        self._reading = RecentResult(self._read, _FRESH_S)
        self._load = QueueLoad(0, 0)  # of the last reading
        self._free_bytes: int | None = None
        self._new_jobs, self._new_pixels = 0, 0  # accepted by this replica since the last reading began
        self._was_full = False

    async def require_room(self) -> None:
        """Return if the service has room for a new job.

        Raises ServiceFull if the service is full, and DatabaseDown if the database does not answer.
        """
        load = await self.load()
        reason = self._reason(load)
        if (reason is not None) != self._was_full:
            self._was_full = reason is not None
            log.warning("admission: full=%s reason=%s", self._was_full, reason)
        if reason is not None:
            raise ServiceFull(f"{reason} Send the request again later.")

    def count(self, pixels: int) -> None:
        """Count a job that was accepted just now. `pixels` are the pixels of its work."""
        self._new_jobs += 1
        self._new_pixels += pixels

    async def load(self) -> QueueLoad:
        """Return the number and the pixels of the queued jobs. Raises DatabaseDown if the database does not answer."""
        await self._reading.get()
        return QueueLoad(self._load.jobs + self._new_jobs, self._load.pixels + self._new_pixels)

    async def _read(self) -> None:
        # A job that is accepted during the reading is perhaps counted twice for a second, but never overlooked.
        before = self._new_jobs, self._new_pixels
        load, self._free_bytes = await asyncio.gather(
            run_in_threadpool(self._store.queue_load, self._settings.max_queued_jobs),
            run_in_threadpool(self.least_free_bytes),
        )
        self._load = load
        self._new_jobs -= before[0]
        self._new_pixels -= before[1]

    def least_free_bytes(self) -> int | None:
        """Return the free bytes of the fullest watched file system, or None if no watched folder exists."""
        folders = Path(tempfile.gettempdir()), *self._settings.store_folders
        return min((free for folder in folders if (free := _free_bytes(folder)) is not None), default=None)

    def _reason(self, load: QueueLoad) -> str | None:
        """Return a sentence that says why the service is full, or None."""
        settings = self._settings
        if load.jobs >= settings.max_queued_jobs:
            return f"{settings.max_queued_jobs:,} jobs are queued, which is the limit (PIXTOOLS_MAX_QUEUED_JOBS)."
        if load.pixels >= settings.max_queued_pixels:
            return (
                f"The queued jobs have {settings.max_queued_pixels / 1e6:,.6g} megapixels or more, which is the limit "
                "(PIXTOOLS_MAX_QUEUED_PIXELS)."
            )
        if self._free_bytes is not None and self._free_bytes < settings.min_free_bytes:
            return (
                f"The service has only {self._free_bytes / 1e9:,.3g} GB of free disk space; it needs "
                f"{settings.min_free_bytes / 1e9:,.3g} GB to accept new jobs (PIXTOOLS_MIN_FREE_BYTES)."
            )
        return None


def _free_bytes(folder: Path) -> int | None:
    """Return the free space of the file system of `folder`. Return None if the folder does not exist."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:  # on a cluster, this node may not have the folders of the stores
        return None
