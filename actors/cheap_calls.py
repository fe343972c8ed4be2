"""Runs cheap work items. One converter call can run several of them.

A call costs the dispatcher about as much CPU time as a cheap step costs the converter. So if many cheap work items wait
for a converter, the next free converter gets several of them and gives one answer.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from ray.exceptions import RayError, RayTaskError

from actors.converter_pool import ConverterPool
from dag.messages import ConverterMessage, WorkItem
from dag.segments import CHEAP_MS

log = logging.getLogger(__name__)

_MAX_ITEMS = 4  # in one call, because its first item waits for its last one
_ANSWER_S = 30.0  # an answer takes a few seconds at most, unless the node is overloaded

_Answer = Sequence[ConverterMessage] | None


@dataclass(eq=False)
class _Waiting:
    """A work item that waits for a converter."""

    work_item: WorkItem
    memory_bytes: int
    cost_ms: float
    on_sent: Callable[[bool], None]
    answer: asyncio.Future[_Answer] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    call: asyncio.Task[None] | None = None  # waits for a converter for this work item


class CheapCalls:
    """Shares the converters of a pool among the cheap work items of all jobs of a dispatcher."""

    def __init__(self, pool: ConverterPool, deadline_s: float) -> None:
        """A converter must answer within `deadline_s` seconds. The longest wait is half a minute."""
        self._pool = pool
        self._answer_s = min(deadline_s, _ANSWER_S)
        self._waiting: list[_Waiting] = []  # oldest first
        self._calls: set[asyncio.Task[None]] = set()

    async def run(
        self, work_item: WorkItem, memory_bytes: int, cost_ms: float, on_sent: Callable[[bool], None]
    ) -> _Answer:
        """Run a work item, and return all messages of the converter. Return None if there is no answer.

        There is no answer if a work item of the call killed the converter or took too long. `cost_ms` is an estimate of
        the time that the converter needs. `on_sent` is called when the converter gets the work item. Its argument says
        whether the converter begins with this work item.
        """
        waiting = _Waiting(work_item, memory_bytes, cost_ms, on_sent)
        self._waiting.append(waiting)
        waiting.call = asyncio.create_task(self._call(waiting), context=Context())
        self._calls.add(waiting.call)
        waiting.call.add_done_callback(self._calls.discard)
        try:
            return await waiting.answer
        except asyncio.CancelledError:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
                waiting.call.cancel()
            raise

    async def _call(self, first: _Waiting) -> None:
        """Wait for a converter, and run `first` on it together with other waiting work items."""
        converter = await self._pool.acquire(first.memory_bytes)
        group = self._take(first)
        answers: Sequence[_Answer] = [None] * len(group)
        try:
            answers = await self._answers(converter, group)
        except RayTaskError:
            log.exception("converter call failed")  # a bug, because errors of steps are part of the answer
            self._pool.release(converter)
        except (RayError, TimeoutError):
            self._pool.discard(converter)
        except Exception:
            log.exception("converter call failed")
            self._pool.discard(converter)
        except BaseException:
            self._pool.discard(converter)
            raise
        else:
            self._pool.release(converter)
        finally:
            for waiting, answer in zip(group, answers, strict=True):
                if not waiting.answer.done():  # otherwise its job was cancelled
                    waiting.answer.set_result(answer)

    def _take(self, first: _Waiting) -> list[_Waiting]:
        """Return the work items of the next call: `first`, and others of the same owner.

        No work item of the call needs more memory than `first`. By their estimates, all together take at most CHEAP_MS.

        Leave enough work items for the other idle converters.
        """
        share = math.ceil(len(self._waiting) / (1 + self._pool.idle))
        others = [
            waiting
            for waiting in self._waiting
            if waiting is not first
            and waiting.memory_bytes <= first.memory_bytes
            and waiting.work_item.inputs.owner == first.work_item.inputs.owner
        ]
        costs = accumulate((waiting.cost_ms for waiting in others), initial=first.cost_ms)
        fitting = sum(cost <= CHEAP_MS for cost in costs)
        taken = others[: min(share, _MAX_ITEMS, fitting) - 1]
        for waiting in taken:
            assert waiting.call is not None  # noqa: S101 (`run` has set it)
            waiting.call.cancel()  # it need not wait for a converter any more
        group = [first, *taken]
        self._waiting = [waiting for waiting in self._waiting if waiting not in group]
        return group

    async def _answers(self, converter: Any, group: list[_Waiting]) -> Sequence[_Answer]:
        """Make a call with one answer. Raises TimeoutError if the answer does not come in time."""
        call = converter.run_all.remote([waiting.work_item for waiting in group])
        for position, waiting in enumerate(group):
            waiting.on_sent(position == 0)
        async with asyncio.timeout(self._answer_s):
            answers: Sequence[_Answer] = await call
            return answers
