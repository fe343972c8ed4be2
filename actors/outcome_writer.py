"""The ledger of one attempt: outcomes go into the database in order, as many at a time as have come up."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

from dag.plan import Plan
from pixtools.database.job_store import Claim, JobStore
from pixtools.errors import DatabaseDown
from pixtools.jobs.outcomes import Began, Cached, Crashed, Failed, Outcome
from pixtools.redis.hints import MOVED, Hints
from pixtools.states import STEP_ENDED

log = logging.getLogger(__name__)

_PAUSE_S = 1.0  # while the database is away


class Ledger:
    """Collects outcomes and writes them; the last ones settle the attempt in their own transaction."""

    def __init__(self, store: JobStore, hints: Hints, claim: Claim) -> None:
        self._store = store
        self._hints = hints
        self._claim = claim
        self.open_steps = frozenset(step.name for step in claim.view.steps if step.state not in STEP_ENDED)
        self.plan: Plan | None = None  # once it is known
        self._unreported = set(self.open_steps)
        self._pending: list[Outcome] = []
        self._batch = 0
        self._news = asyncio.Event()
        self._closed = False

    def report(self, outcome: Outcome) -> None:
        """Take note of an outcome.

        A step that has its result and ran again only for its pixels keeps its state: what goes wrong with it
        is charged to the open steps that need those pixels, or the attempt would be repeated for ever.
        """
        if outcome.step in self.open_steps:
            self._note(outcome)
        elif self.plan is not None and isinstance(outcome, Failed | Crashed):
            for name in sorted(self.plan.waiting_for(outcome.step, self.open_steps)):
                self._note(replace(outcome, step=name))

    def _note(self, outcome: Outcome) -> None:
        self._pending.append(outcome)
        if isinstance(outcome, Cached):
            self.open_steps -= {outcome.step}
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
        self._batch += 1
        while True:
            try:
                state = await asyncio.to_thread(
                    self._store.record,
                    self._claim.id,
                    self._claim.attempt,
                    outcomes,
                    batch=self._batch,
                    settle=settle,
                )
            except DatabaseDown as error:
                # Finished work is kept and recorded when the database is back, if the lease still holds then.
                log.warning("database down: job=%s error=%s", self._claim.id, error)
                await asyncio.sleep(_PAUSE_S)
            else:
                if settle:
                    log.info("settled: job=%s attempt=%d state=%s", self._claim.id, self._claim.attempt, state)
                return
