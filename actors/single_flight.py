"""Runs a step only once if several jobs of a dispatcher need it at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from dag.plan import Plan, PlannedStep
from pixtools.operations.base.kinds import Inference

_Key = tuple[str, str]  # an owner and a step key
_Ends = dict[str, "asyncio.Future[None]"]  # by step name


class SingleFlight:
    """The steps that run now on behalf of all jobs of a dispatcher. Different owners share no steps.

    Another job that has the same step waits until the step has ended, and then takes the artifact. If the step failed,
    the other job runs the step itself. So a small job may have to wait for a large job that runs the step last.
    """

    def __init__(self) -> None:
        self._running: dict[_Key, asyncio.Future[None]] = {}
        self.shared = 0
        """How many steps did not run because the same step was running."""

    @contextmanager
    def join(self, owner: str, plan: Plan, work: frozenset[str]) -> Iterator[tuple[_Ends, _Ends]]:
        """Divide the steps of `work` into those that this job runs, and those that run already.

        Yield both, by step name, with futures. The caller calls `end_flight` for its own steps as soon as the outcomes
        are recorded. At the end of the block, the other own steps end too. Wait for steps of other jobs only after the
        block, so that no two jobs wait for each other.

        Steps that give their pixels to other steps of `work` are in neither group, because this job needs the pixels.
        """
        own: _Ends = {}
        elsewhere: _Ends = {}
        keys: dict[_Key, asyncio.Future[None]] = {}
        for step in plan.steps:
            if step.name not in work or not step.leaves_file or _gives_pixels(plan, step, work):
                continue
            key = (owner, step.key)
            running = self._running.get(key)
            if running is not None and not running.done():
                elsewhere[step.name] = running
            else:
                own[step.name] = keys[key] = self._running[key] = asyncio.get_running_loop().create_future()
        self.shared += len(elsewhere)
        try:
            yield own, elsewhere
        finally:
            for key, future in keys.items():
                end_flight(future)
                if self._running.get(key) is future:  # otherwise another job runs the step again
                    del self._running[key]


def _gives_pixels(plan: Plan, step: PlannedStep, work: frozenset[str]) -> bool:
    """Return whether other steps of `work` need the pixels of a step, and cannot read them from its file.

    Only the file of an inference can replace its pixels.
    """
    return not isinstance(step.operation, Inference) and not work.isdisjoint(plan.pixel_readers[step.name])


def end_flight(future: asyncio.Future[None]) -> None:
    """Tell the waiting jobs that a step has ended."""
    if not future.done():
        future.set_result(None)
