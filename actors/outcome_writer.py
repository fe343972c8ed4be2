"""Records the outcomes of one attempt in the database, in order and in batches."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

from actors.group_commit import GroupCommit
from actors.job_metrics import JobMetrics
from dag.plan import Plan
from pixtools import tracing
from pixtools.jobs.outcomes import Batch, Cached, Crashed, Failed, Outcome, Started
from pixtools.jobs.views import Claim
from pixtools.states import STEP_ENDED
from pixtools.waiting import wait_at_most

log = logging.getLogger(__name__)

# How long the writer collects outcomes. The steps of a cheap job end in this time, so one transaction records them all.
_COLLECT_S = 0.1


class OutcomeWriter:
    """Collects outcomes and writes them in batches. The transaction of the last batch settles the attempt.

    To settle an attempt means to end the job or to return the job to the queue. With `settles=False`, the writer does
    not settle the attempt, because another writer follows.

    `open_steps` are the steps that had not ended when the attempt began. A step that is reported as cached is removed
    from `open_steps`. The caller sets `plan` as soon as the plan is known.
    """

    def __init__(
        self,
        commits: GroupCommit,
        claim: Claim,
        *,
        before: OutcomeWriter | None = None,
        settles: bool = True,
        on_recorded: Callable[[str], None] = lambda _: None,
        metrics: JobMetrics | None = None,
    ) -> None:
        """`before` is the earlier writer of this attempt, if any. `on_recorded` gets the names of ended steps."""
        self._commits = commits
        self._claim = claim
        self.number: int = 0 if before is None else before.number
        """The number of the last batch."""
        self.failed: frozenset[str] = frozenset() if before is None else before.failed
        """The steps that failed in this attempt."""
        self._settles = settles
        self._on_recorded = on_recorded
        self._metrics = metrics
        self.open_steps = frozenset(step.name for step in claim.view.steps if step.state not in STEP_ENDED)
        self.plan: Plan | None = None
        self._unreported = set(self.open_steps)
        self._pending: list[Outcome] = []
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
        if isinstance(outcome, Failed | Crashed):
            self.failed |= {outcome.step}
        if isinstance(outcome, Cached):
            self.open_steps -= {outcome.step}
        if isinstance(outcome, Started):
            self._started_at.setdefault(outcome.step, asyncio.get_running_loop().time())
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
        """Write outcomes as they are reported, until the last one. Raises LeaseLost if the lease was lost.

        The last outcome has come when every open step has its outcome, or after `close`. While the database is down,
        the writer keeps the outcomes. It writes them when the database answers again, if the lease is still valid.
        """
        is_last, state = False, None
        while not is_last:
            await self._changed.wait()
            await wait_at_most(self._is_complete, _COLLECT_S)
            self._changed.clear()
            outcomes, self._pending = self._pending, []
            is_last = self._is_complete.is_set()
            self.number += 1
            batch = Batch(
                self._claim.id,
                self._claim.attempt,
                tuple(self._with_age(outcome) for outcome in outcomes),
                self.number,
                is_last and self._settles,
            )
            with tracing.span("record outcomes", batch=self.number):
                state = await self._commits.record(batch)
            if self._metrics is not None:
                self._metrics.recorded(self._claim, batch.outcomes, state if batch.settle else None)
            for outcome in outcomes:
                if not isinstance(outcome, Started):
                    self._on_recorded(outcome.step)
        if self._settles:
            log.info("settled: state=%s", state)

    def _with_age(self, outcome: Outcome) -> Outcome:
        if not isinstance(outcome, Started):
            return outcome
        return replace(outcome, ago_s=asyncio.get_running_loop().time() - self._started_at[outcome.step])
