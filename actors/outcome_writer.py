"""Records the outcomes of one attempt in the database, in order and in batches."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

from dag.plan import Plan
from pixtools.database.job_store import JobStore
from pixtools.jobs.outcomes import Cached, Crashed, Failed, Outcome, Started
from pixtools.jobs.views import Claim
from pixtools.redis.hints import CHANGED, Hints
from pixtools.states import STEP_ENDED
from pixtools.waiting import until_database_answers, wait_at_most

log = logging.getLogger(__name__)

# How long the writer collects outcomes. The steps of a cheap job end in this time, so one transaction records them all.
_COLLECT_S = 0.1


class OutcomeWriter:
    """Collects outcomes and writes them in batches. The transaction of the last batch settles the attempt.

    To settle an attempt means to end the job or to return the job to the queue.

    `open_steps` are the steps that had not ended when the attempt began. A step that is reported as cached is removed
    from `open_steps`. The caller sets `plan` as soon as the plan is known.
    """

    def __init__(self, store: JobStore, hints: Hints, claim: Claim) -> None:
        self._store = store
        self._hints = hints
        self._claim = claim
        self.open_steps = frozenset(step.name for step in claim.view.steps if step.state not in STEP_ENDED)
        self.plan: Plan | None = None
        self._unreported = set(self.open_steps)
        self._pending: list[Outcome] = []
        self._batch = 0
        self._started_at: dict[str, float] = {}  # on the clock of the event loop
        self._changed = asyncio.Event()
        self._is_complete = asyncio.Event()  # every open step has its outcome, or no more outcomes follow

    def report(self, outcome: Outcome) -> None:
        """Add an outcome to the next batch.

        A step that has a result runs again if another step needs its pixels. The second run does not change the state
        of the step. If the second run fails, the failure is counted for the open steps that need the pixels. Otherwise
        the job would be tried again forever.
        """
        if outcome.step in self.open_steps:
            self._add(outcome)
        elif self.plan is not None and isinstance(outcome, Failed | Crashed):
            for name in sorted(self.plan.waiting_for(outcome.step, self.open_steps)):
                self._add(replace(outcome, step=name))

    def _add(self, outcome: Outcome) -> None:
        self._pending.append(outcome)
        if isinstance(outcome, Cached):
            self.open_steps -= {outcome.step}
        if isinstance(outcome, Started):
            self._started_at[outcome.step] = asyncio.get_running_loop().time()
        else:
            self._unreported.discard(outcome.step)
        if not self._unreported:
            self._is_complete.set()
        self._changed.set()

    def close(self) -> None:
        """Declare that no more outcomes follow."""
        self._is_complete.set()
        self._changed.set()

    async def write(self) -> None:
        """Write outcomes as they are reported, until the attempt is settled. Raises LeaseLost if the lease was lost.

        The attempt is settled when every open step has its outcome, or after `close`. While the database is down, the
        writer keeps the outcomes. It writes them when the database answers again, if the lease is still valid.
        """
        settled = False
        while not settled:
            await self._changed.wait()
            await wait_at_most(self._is_complete, _COLLECT_S)
            self._changed.clear()
            outcomes, self._pending = self._pending, []
            settled = self._is_complete.is_set()
            await self._record([self._with_age(outcome) for outcome in outcomes], settle=settled)
            await self._hints.publish(CHANGED, str(self._claim.id))

    def _with_age(self, outcome: Outcome) -> Outcome:
        if not isinstance(outcome, Started):
            return outcome
        return replace(outcome, ago_s=asyncio.get_running_loop().time() - self._started_at[outcome.step])

    async def _record(self, outcomes: list[Outcome], *, settle: bool) -> None:
        self._batch += 1
        state = await until_database_answers(
            lambda: asyncio.to_thread(
                self._store.record, self._claim.id, self._claim.attempt, outcomes, batch=self._batch, settle=settle
            ),
            doing="recording outcomes",
        )
        if settle:
            log.info("settled: job=%s attempt=%d state=%s", self._claim.id, self._claim.attempt, state)
