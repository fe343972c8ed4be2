"""Runs cheap work items, several of them in one converter call.

A call costs the dispatcher about as much CPU time as a cheap step costs the converter. So if many cheap work items wait
for a converter, the next free converter gets several of them and gives one answer.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ray.exceptions import RayError, RayTaskError

from actors.converter_pool import ConverterPool
from dag.messages import ConverterMessage, WorkItem

log = logging.getLogger(__name__)

_MAX_ITEMS = 4  # in one call, because the first item has to wait for the last one
_ANSWER_S = 30.0  # the longest wait for an answer, which takes about a second at most if the node is not overloaded

_Answer = Sequence[ConverterMessage] | None


@dataclass(eq=False)
class _Waiting:
    """A work item that waits for a converter."""

    work_item: WorkItem
    memory_bytes: int
    on_sent: Callable[[bool], None]
    answer: asyncio.Future[_Answer] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class CheapCalls:
    """Shares the converters of a pool among the cheap work items of all jobs of a dispatcher."""

    def __init__(self, pool: ConverterPool) -> None:
        self._pool = pool
        self._waiting: list[_Waiting] = []  # oldest first
        self._calls: set[asyncio.Task[None]] = set()

    async def run(self, work_item: WorkItem, memory_bytes: int, on_sent: Callable[[bool], None]) -> _Answer:
        """Run a work item, and return all messages of the converter. Return None if there is no answer.

        There is no answer if a work item of the call killed the converter or took too long. `on_sent` is called when
        the converter gets the work item. Its argument says whether the converter begins with this work item.
        """
        waiting = _Waiting(work_item, memory_bytes, on_sent)
        self._waiting.append(waiting)
        call = asyncio.create_task(self._call(memory_bytes))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        return await waiting.answer

    async def _call(self, memory_bytes: int) -> None:
        converter = await self._pool.acquire(memory_bytes)
        group = self._take(memory_bytes)
        answers: Sequence[_Answer] = [None] * len(group)
        try:
            if group:  # other calls may have taken all work items
                answers = await _answers(converter, group)
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

    def _take(self, memory_bytes: int) -> list[_Waiting]:
        """Return the next work items of one owner that need at most `memory_bytes` bytes each.

        Leave enough work items for the other idle converters.
        """
        self._waiting = [waiting for waiting in self._waiting if not waiting.answer.done()]
        share = math.ceil(len(self._waiting) / (1 + self._pool.idle))
        fitting = [waiting for waiting in self._waiting if waiting.memory_bytes <= memory_bytes]
        group = [waiting for waiting in fitting if waiting.work_item.inputs.owner == fitting[0].work_item.inputs.owner]
        group = group[: min(share, _MAX_ITEMS)]
        self._waiting = [waiting for waiting in self._waiting if waiting not in group]
        return group


async def _answers(converter: Any, group: list[_Waiting]) -> Sequence[_Answer]:
    """Make a call with one answer. Raises TimeoutError if the answer does not come in time."""
    call = converter.run_all.remote([waiting.work_item for waiting in group])
    for position, waiting in enumerate(group):
        waiting.on_sent(position == 0)
    async with asyncio.timeout(_ANSWER_S):
        answers: Sequence[_Answer] = await call
        return answers
