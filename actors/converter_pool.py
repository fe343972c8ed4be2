"""Starts and ends the converters of one dispatcher, and lends converters to callers.

Each node has a memory budget for its converters. A caller declares the memory that a work item needs. The caller then
gets a converter on a node whose budget has enough memory left.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass, field
from typing import Any

from pixtools.retries import CONVERTER_START_PAUSE_S

log = logging.getLogger(__name__)

_MAX_PASSES = 16  # later callers that may go ahead of a caller, while no node has room for its call


@dataclass(frozen=True)
class Node:
    """A node with converters. `memory_bytes` is the budget of the node for all converters of one dispatcher."""

    name: str
    memory_bytes: int


@dataclass(frozen=True)
class Capacity:
    """The limits of one pool in the present cluster."""

    max_converters: int
    leaving: frozenset[str] = frozenset()  # the names of the nodes that have died or are about to be removed


@dataclass(eq=False)
class _Start:
    """A converter that has been created but is not ready. If no CPU is free for it, this may take minutes."""

    since: float
    task: asyncio.Task[None] | None = None


@dataclass(eq=False)
class _Waiter:
    """A caller that waits for a converter."""

    memory_bytes: int
    converter: asyncio.Future[Any] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    passes: int = 0


class ConverterPool:
    """Keeps between `minimum` and `maximum` converters, and starts or ends converters when the demand changes.

    `create` returns a new converter, which is an actor that is about to start. The method `ready` of the actor returns
    its Node. If no CPU is free for the actor, a Ray cluster with an autoscaler adds a node. `destroy` ends a converter,
    even if it is busy. `limit_bytes` is the memory limit of each converter process. The pool may end a converter that
    was idle for `idle_s` seconds, and gives up a converter that was not ready within this time if no caller needs it.
    """

    def __init__(
        self,
        create: Callable[[], Any],
        destroy: Callable[[Any], None],
        *,
        minimum: int,
        maximum: int,
        idle_s: float,
        limit_bytes: int,
    ) -> None:
        self._create = create
        self._destroy = destroy
        self._minimum = minimum
        self._maximum = maximum
        self._idle_s = idle_s
        self._limit_bytes = limit_bytes
        self._idle: deque[tuple[Any, float]] = deque()  # (converter, time when it became idle), oldest first
        self._nodes: dict[Any, Node] = {}  # by converter, for all converters that have started
        self._taken: dict[Any, int] = {}  # by busy converter, the bytes that the caller declared
        self._waiting: deque[_Waiter] = deque()
        self._starts: list[_Start] = []  # oldest first
        self._leaving: frozenset[str] = frozenset()
        self._size = 0
        self._fill()

    @property
    def maximum(self) -> int:
        """The largest number of converters."""
        return self._maximum

    @property
    def running(self) -> int:
        """The number of converters that have started."""
        return len(self._nodes)

    @property
    def idle(self) -> int:
        """The number of idle converters."""
        return len(self._idle)

    @property
    def size(self) -> int:
        """The number of converters, including those that have not started yet."""
        return self._size

    @property
    def memory_bytes(self) -> int:
        """The sum of the memory budgets of all nodes that have converters."""
        return sum(node.memory_bytes for node in set(self._nodes.values()))

    @property
    def taken_bytes(self) -> int:
        """The memory that callers have declared for all busy converters."""
        return sum(self._taken.values())

    async def acquire(self, memory_bytes: int) -> Any:
        """Wait for a converter on a node with `memory_bytes` left in its budget, and return the converter.

        A call that needs more than the whole budget of a node gets a node on which no other call runs. Each call counts
        for at most `limit_bytes`, because no converter can use more.
        """
        waiter = _Waiter(min(memory_bytes, self._limit_bytes))
        self._waiting.append(waiter)
        self._serve()
        if not waiter.converter.done():
            self._fill()
        try:
            return await waiter.converter
        except asyncio.CancelledError:
            if waiter.converter.done() and not waiter.converter.cancelled():  # it already has a converter
                self.release(waiter.converter.result())
            with suppress(ValueError):
                self._waiting.remove(waiter)
                self._serve()  # this caller may have blocked later callers that need less memory
            raise

    def release(self, converter: Any) -> None:
        """Return a healthy converter to the pool after a call."""
        del self._taken[converter]
        self._offer(converter)

    def discard(self, converter: Any) -> None:
        """End a converter that is dead, too slow or no longer needed. Start another converter if there is demand."""
        del self._taken[converter]
        self._end(converter)
        self._serve()
        self._fill()

    def adapt(self, capacity: Capacity) -> None:
        """Follow the capacity of the cluster.

        Converters above the new maximum, and converters on nodes that are leaving, end as soon as their calls have
        ended. If there is more room than before, start converters for waiting callers.
        """
        self._maximum, self._leaving = capacity.max_converters, capacity.leaving
        for start in self._starts[::-1]:  # a converter that runs is worth more than one that may never start
            if self._size > self._maximum:
                self._give_up(start)
        for entry in tuple(self._idle):
            if self._must_end(entry[0]):
                self._idle.remove(entry)
                self._end(entry[0])
        self._fill()

    def retire(self) -> None:
        """End each converter as soon as no caller needs it. The converters of the next dispatcher need the CPUs."""
        self._minimum, self._idle_s = 0, 0.0
        self.shrink()

    def shrink(self) -> None:
        """End converters that were idle for `idle_s`, down to the minimum, and give up starts that nobody waits for.

        A node with few converters comes first, so that it becomes empty. Ray can remove empty nodes.
        """
        before = time.monotonic() - self._idle_s
        for start in [each for each in self._starts if each.since <= before]:
            if self._size > self._minimum and len(self._starts) > len(self._waiting):
                self._give_up(start)
        idle = [entry for entry in self._idle if entry[1] <= before]
        on_node = Counter(self._nodes.values())
        while self._size > self._minimum and idle:
            entry = min(idle, key=lambda each: on_node[self._nodes[each[0]]])  # among equal nodes, the oldest
            on_node[self._nodes[entry[0]]] -= 1
            idle.remove(entry)
            self._idle.remove(entry)
            self._end(entry[0])

    def _must_end(self, converter: Any) -> bool:
        return self._size > self._maximum or self._nodes[converter].name in self._leaving

    def _end(self, converter: Any) -> None:
        self._destroy(converter)
        self._nodes.pop(converter, None)
        self._size -= 1

    def _offer(self, converter: Any) -> None:
        """Give an idle converter to a waiting caller. If no caller waits, keep the converter idle.

        If the pool is too large, or the node is leaving, end the converter.
        """
        if self._must_end(converter):
            self._end(converter)
            self._fill()
            return
        self._idle.append((converter, time.monotonic()))
        self._serve()
        if self._idle_s == 0:
            self.shrink()

    def _serve(self) -> None:
        """Give idle converters to the waiting callers, in order of arrival.

        If no node has room for a caller, up to `_MAX_PASSES` later callers go ahead. After that, all later callers wait
        until running calls have ended and a node has room for the first caller.
        """
        passed: list[_Waiter] = []
        for waiter in tuple(self._waiting):
            if any(earlier.passes >= _MAX_PASSES for earlier in passed):
                return
            if waiter.converter.cancelled():
                continue
            converter = self._take(waiter.memory_bytes)
            if converter is None:
                passed.append(waiter)
                continue
            self._waiting.remove(waiter)
            waiter.converter.set_result(converter)
            for earlier in passed:
                earlier.passes += 1

    def _take(self, memory_bytes: int) -> Any:
        """Return an idle converter on a node with room for `memory_bytes`, or None."""
        taken: Counter[Node] = Counter()
        for busy, bytes_ in self._taken.items():
            taken[self._nodes[busy]] += bytes_
        # Prefer the converter that was used last. It has already allocated memory, and the other converters can reach
        # `idle_s` and end.
        for entry in reversed(self._idle):
            converter, _ = entry
            node = self._nodes[converter]
            if taken[node] == 0 or taken[node] + memory_bytes <= node.memory_bytes:
                self._idle.remove(entry)
                self._taken[converter] = memory_bytes
                return converter
        return None

    def _fill(self) -> None:
        """Start converters up to the minimum, and one for each waiting caller up to the maximum."""
        wanted = min(self._maximum, max(self._minimum, self._size - len(self._starts) + len(self._waiting)))
        while self._size < wanted:
            self._size += 1
            start = _Start(time.monotonic())
            start.task = asyncio.get_running_loop().create_task(self._start(start), context=Context())
            self._starts.append(start)

    def _give_up(self, start: _Start) -> None:
        assert start.task is not None  # noqa: S101 (`_fill` has set it)
        start.task.cancel()
        self._starts.remove(start)
        self._size -= 1

    async def _start(self, start: _Start) -> None:
        while True:
            converter = None
            try:
                converter = self._create()
                self._nodes[converter] = await converter.ready.remote()
            except asyncio.CancelledError:  # nobody needs this converter any more
                if converter is not None:
                    self._destroy(converter)
                raise
            except Exception:
                log.exception("converter did not start")
                if converter is not None:
                    self._destroy(converter)
                await asyncio.sleep(CONVERTER_START_PAUSE_S)
            else:
                if self._nodes[converter].name not in self._leaving:
                    self._starts.remove(start)
                    self._offer(converter)
                    return
                # Ray placed the converter before it knew that the node is leaving.
                del self._nodes[converter]
                self._destroy(converter)
                await asyncio.sleep(CONVERTER_START_PAUSE_S)
