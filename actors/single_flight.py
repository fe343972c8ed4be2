"""Lets a step that several jobs of a dispatcher ask for at the same time run only once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from dag.plan import Plan, PlannedStep
from pixtools.operations.base.kinds import Inference

_Key = tuple[str, str]  # an owner and a step key
_Ends = Mapping[str, "asyncio.Future[None]"]  # by step name


class SingleFlight:
    """The steps that run now on behalf of all jobs of a dispatcher. Different owners share no steps.

    Another job that has the same step waits until the step has ended, and then takes the artifact. If the step failed,
    the other job runs the step itself.
    """

    def __init__(self) -> None:
        self._running: dict[_Key, asyncio.Future[None]] = {}
        self.shared = 0
        """How many steps did not run because the same step was running."""

    @contextmanager
    def join(self, owner: str, plan: Plan, work: frozenset[str]) -> Iterator[tuple[_Ends, _Ends]]:
        """Divide the steps of `work` into those that this job runs, and those that run already.

        Yield both, by step name, with futures. The caller sets the futures of its own steps as soon as the outcomes are
        recorded. At the end of the block, the others are set too. Wait for steps of other jobs only after the block,
        so that no two jobs wait for each other.

        Steps that give their pixels to other steps of `work` are in neither group, because this job needs the pixels.
        """
        own: dict[str, asyncio.Future[None]] = {}
        elsewhere: dict[str, asyncio.Future[None]] = {}
        keys: list[_Key] = []
        for step in plan.steps:
            if step.name not in work or not step.leaves_file or _gives_pixels(plan, step, work):
                continue
            key = (owner, step.key)
            if key in self._running:
                elsewhere[step.name] = self._running[key]
            else:
                own[step.name] = self._running[key] = asyncio.get_running_loop().create_future()
                keys.append(key)
        self.shared += len(elsewhere)
        try:
            yield own, elsewhere
        finally:
            for key in keys:
                end_flight(self._running.pop(key))


def _gives_pixels(plan: Plan, step: PlannedStep, work: frozenset[str]) -> bool:
    """Return whether a step has to run because other steps read its pixels. They can read an inference's file."""
    return not isinstance(step.operation, Inference) and not work.isdisjoint(plan.pixel_readers[step.name])


def end_flight(future: asyncio.Future[None]) -> None:
    """Tell the waiting jobs that a step has ended."""
    if not future.done():
        future.set_result(None)
