"""The ledger of one attempt: outcomes go into the database in order, as many at a time as have come up."""

from __future__ import annotations

import asyncio
import logging

from pixtools.errors import DatabaseDown
from pixtools.hints import MOVED, Hints
from pixtools.job_store import Claim, JobStore
from pixtools.outcomes import Began, Outcome

log = logging.getLogger(__name__)

_PAUSE_S = 1.0  # while the database is away


class Ledger:
    """Collects outcomes and writes them; the last ones settle the attempt in their own transaction."""

    def __init__(self, store: JobStore, hints: Hints, claim: Claim, open_steps: frozenset[str]) -> None:
        self._store = store
        self._hints = hints
        self._claim = claim
        self.open_steps = open_steps
        self._unreported = set(open_steps)
        self._pending: list[Outcome] = []
        self._news = asyncio.Event()
        self._closed = False

    def report(self, outcome: Outcome) -> None:
        """Take note of an outcome; of a step that ended in an earlier attempt and only ran again, none is taken."""
        if outcome.step not in self.open_steps:
            return
        self._pending.append(outcome)
        if not isinstance(outcome, Began):
            self._unreported.discard(outcome.step)
        self._news.set()

    def close(self) -> None:
        """Say that no outcome will follow."""
        self._closed = True
        self._news.set()

    async def write(self) -> None:
        """Write what is reported until the attempt is settled; raises LeaseLost."""
        settled = False
        while not settled:
            await self._news.wait()
            self._news.clear()
            outcomes, self._pending = self._pending, []
            settled = self._closed or not self._unreported
            await self._record(outcomes, settle=settled)
            await self._hints.publish(MOVED, str(self._claim.id))

    async def _record(self, outcomes: list[Outcome], *, settle: bool) -> None:
        while True:
            try:
                state = await asyncio.to_thread(
                    self._store.record, self._claim.id, self._claim.attempt, outcomes, settle=settle,
                )  # fmt: skip
            except DatabaseDown as error:
                # Finished work is kept and recorded when the database is back, if the lease still holds then.
                log.warning("database down: job=%s error=%s", self._claim.id, error)
                await asyncio.sleep(_PAUSE_S)
            else:
                if settle:
                    log.info("settled: job=%s attempt=%d state=%s", self._claim.id, self._claim.attempt, state)
                return
