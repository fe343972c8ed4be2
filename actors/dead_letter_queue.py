"""The dead-letter queue: steps out of attempts, waiting to be redriven at a bounded rate or to be discarded."""

from __future__ import annotations

import asyncio
import logging
import uuid
from contextlib import suppress

from ray.util.metrics import Counter, Gauge

from pixtools import logs
from pixtools.database.connection import Database
from pixtools.database.dead_letter_store import DeadLetterStore, Redriven, Selection
from pixtools.errors import DatabaseDown
from pixtools.redis.hints import MOVED, QUEUED, Hints
from pixtools.settings import Settings

log = logging.getLogger(__name__)


class DeadLetterQueue:
    """Stands in front of durable rows: what it acknowledges is written, and read again when it restarts."""

    def __init__(self, settings: Settings, build: str) -> None:
        logs.to_stderr()
        self._settings = settings
        self._build = build
        self._store = DeadLetterStore(Database(settings, pool_size=2, name="dead-letter-queue"))
        self._hints = Hints(settings)
        self._wake = asyncio.Event()
        self._letters = Gauge("pixtools_dead_letters", "Dead letters by state.", ("state",))
        self._came = Counter("pixtools_dead_letters_total", "Steps given up, by the code of the error.", ("code",))
        self._redriven = Counter("pixtools_dead_letters_redriven_total", "Steps put back to work.")
        self._discarded = Counter("pixtools_dead_letters_discarded_total", "Dead letters discarded.")
        self._forgotten = Counter("pixtools_dead_letters_forgotten_total", "Dead letters past their retention.")
        self._loops = [
            asyncio.create_task(self._redrive_for_ever()),
            asyncio.create_task(self._look_for_ever()),
        ]

    async def build(self) -> str:
        """Return which code and settings this actor runs with."""
        return self._build

    async def redrive(self, owner: str, selection: Selection) -> int:
        """Have the waiting letters selected redriven, each in its turn; return how many. Errors as the store's."""
        letters = await asyncio.to_thread(self._store.ask_redrive, owner, selection)
        self._wake.set()
        return len(letters)

    async def retry(self, owner: str, job_id: uuid.UUID) -> int:
        """Redrive all open letters of one job now: one job stands in nobody's way. Return how many."""
        return await self._announce(await asyncio.to_thread(self._store.retry, owner, job_id))

    async def discard(self, owner: str, selection: Selection) -> int:
        """Discard the open letters selected; return how many. Errors as the store's."""
        number = await asyncio.to_thread(self._store.discard, owner, selection)
        if number:
            self._discarded.inc(number)
        return number

    async def _redrive_for_ever(self) -> None:
        """Redrive what was asked for, at our rate; what is to be done is read from the rows alone."""
        while True:
            try:
                due = await asyncio.to_thread(self._store.redriving)
                for letter in due:
                    done = await self._announce(await asyncio.to_thread(self._store.redrive, letter))
                    await asyncio.sleep(done / self._settings.redrives_per_s)
                if not due:
                    await self._wait()
            except DatabaseDown as error:
                log.warning("database down: %s", error)
                await asyncio.sleep(1)
            except Exception:
                log.exception("redrive failed")
                await asyncio.sleep(10)

    async def _wait(self) -> None:
        """Return when a redrive is asked for, or in a while: it may have been asked for without our hearing of it."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.sweep.total_seconds()):
                await self._wake.wait()
        self._wake.clear()

    async def _announce(self, redriven: Redriven | None) -> int:
        """Tell dispatchers and readers what was put back to work; return how many letters it was."""
        if redriven is None:
            return 0
        log.info("redriven: job=%s letters=%d", redriven.job_id, redriven.letters)
        self._redriven.inc(redriven.letters)
        await self._hints.publish(MOVED, str(redriven.job_id))
        await self._hints.publish(QUEUED)
        return redriven.letters

    async def _look_for_ever(self) -> None:
        """Note what came, forget what is too old, and say how many letters there are."""
        while True:
            try:
                for code, number in (await asyncio.to_thread(self._store.note_new)).items():
                    log.warning("dead letters: code=%s number=%d", code, number)
                    self._came.inc(number, {"code": code})
                if forgotten := await asyncio.to_thread(self._store.forget, self._settings.dead_letter_retention):
                    self._forgotten.inc(forgotten)
                for state, number in (await asyncio.to_thread(self._store.counts)).items():
                    self._letters.set(number, {"state": state.value})
            except DatabaseDown as error:
                log.warning("database down: %s", error)
            except Exception:
                log.exception("dead letters could not be looked at")
            await asyncio.sleep(self._settings.sweep.total_seconds())
