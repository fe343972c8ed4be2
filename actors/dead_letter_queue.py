"""The dead-letter queue: redrives dead letters at a limited rate, and discards dead letters."""

from __future__ import annotations

import asyncio
import logging
import uuid
from functools import partial

from ray.util.metrics import Counter, Gauge

from pixtools import logs
from pixtools.database.dead_letter_store import DeadLetterStore
from pixtools.jobs.dead_letters import DeadLetterSelection, Redriven
from pixtools.redis.hints import CHANGED, DELIVERIES, QUEUED, Hints, changed
from pixtools.retries import REDRIVE_PAUSE_S
from pixtools.settings import Settings
from pixtools.waiting import until_database_answers, wait_at_most

log = logging.getLogger(__name__)


class DeadLetterQueue:
    """Redrives and discards dead letters. `start` begins the loops.

    The queue writes each request to the database before it acknowledges the request. After a restart, the
    queue reads the open requests from the database. So a crash of the queue loses no request.
    """

    def __init__(self, settings: Settings, build: str, *, store: DeadLetterStore, hints: Hints) -> None:
        """`build` identifies the code and the settings that this queue runs with."""
        self._settings = settings
        self._build = build
        self._store = store
        self._hints = hints
        self._requested = asyncio.Event()
        self._loops: list[asyncio.Task[None]] = []
        self._letters = Gauge("pixtools_dead_letters", "Dead letters by state.", ("state",))
        self._new = Counter("pixtools_dead_letters_total", "Steps that failed permanently, by error code.", ("code",))
        self._redriven = Counter("pixtools_dead_letters_redriven_total", "Dead letters redriven.")
        self._discarded = Counter("pixtools_dead_letters_discarded_total", "Dead letters discarded.")
        self._deleted = Counter("pixtools_dead_letters_forgotten_total", "Dead letters deleted after their retention.")

    async def start(self) -> None:
        """Begin to redrive and to count dead letters, and return at once."""
        self._loops = [
            asyncio.create_task(self._redrive_forever()),
            asyncio.create_task(self._observe_forever()),
        ]

    async def build(self) -> str:
        """Return the digest of the code and the settings that this queue runs with."""
        return self._build

    async def redrive(self, owner: str, selection: DeadLetterSelection) -> int:
        """Request a redrive of the selected dead letters, and return their number.

        The redrives follow later, at a limited rate. Raises the errors of DeadLetterStore.request_redrive.
        """
        letters = await asyncio.to_thread(self._store.request_redrive, owner, selection)
        self._requested.set()
        return len(letters)

    async def retry(self, owner: str, job_id: uuid.UUID) -> int:
        """Redrive all open dead letters of one job immediately, and return their number.

        The rate is not limited here, because one job has few dead letters.
        """
        return await self._announce(await asyncio.to_thread(self._store.retry, owner, job_id))

    async def discard(self, owner: str, selection: DeadLetterSelection) -> int:
        """Discard the selected open dead letters, and return their number.

        Raises the errors of DeadLetterStore.discard.
        """
        number = await asyncio.to_thread(self._store.discard, owner, selection)
        if number:
            self._discarded.inc(number)
        return number

    async def _redrive_forever(self) -> None:
        while True:
            try:
                if await self._redrive_pending() == 0:
                    # Read the database again after a while, even without a request. A call of `redrive` may have raised
                    # DatabaseDown although the database had stored its request.
                    await wait_at_most(self._requested, self._settings.sweep_interval.total_seconds())
                    self._requested.clear()
            except Exception:
                log.exception("redrive failed")
                await asyncio.sleep(REDRIVE_PAUSE_S)

    async def _redrive_pending(self) -> int:
        """Redrive the dead letters marked for a redrive, at most `redrives_per_s` a second, and return their number."""
        pending = await until_database_answers(
            lambda: asyncio.to_thread(self._store.pending_redrives), doing="reading requested redrives"
        )
        for letter in pending:
            redriven = await until_database_answers(
                partial(asyncio.to_thread, self._store.redrive, letter), doing="redriving dead letters"
            )
            await asyncio.sleep(await self._announce(redriven) / self._settings.redrives_per_s)
        return len(pending)

    async def _announce(self, redriven: Redriven | None) -> int:
        """Publish hints about a redriven job, and return the number of its redriven dead letters."""
        if redriven is None:
            return 0
        with logs.about(job_id=redriven.job_id):
            log.info("redriven: letters=%d", redriven.letters)
        self._redriven.inc(redriven.letters)
        if redriven.steps:
            await self._hints.publish(CHANGED, changed(redriven.job_id))
            await self._hints.publish(QUEUED, "")
        if redriven.deliveries:
            await self._hints.publish(DELIVERIES, "")
        return redriven.letters

    async def _observe_forever(self) -> None:
        while True:
            try:
                await until_database_answers(self._observe, doing="counting dead letters")
            except Exception:
                log.exception("counting dead letters failed")
            await asyncio.sleep(self._settings.sweep_interval.total_seconds())

    async def _observe(self) -> None:
        """Update the metrics, and delete the dead letters that are past their retention."""
        for code, number in (await asyncio.to_thread(self._store.count_new)).items():
            log.warning("dead letters: code=%s number=%d", code, number)
            self._new.inc(number, {"code": code})
        if deleted := await asyncio.to_thread(self._store.delete_old, self._settings.dead_letter_retention):
            self._deleted.inc(deleted)
        for state, number in (await asyncio.to_thread(self._store.counts)).items():
            self._letters.set(number, {"state": state.value})
