"""The converters of one dispatcher: more of them when work waits, fewer when they stand idle.

A node has so much memory for its converters, and an order says how much it takes: it begins where there is room for it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

log = logging.getLogger(__name__)

_PAUSE_S = 1.0  # between failures to start a converter
_MOST_PASSES = 16  # orders that may begin before one that came earlier and still finds no room


@dataclass(frozen=True)
class Node:
    """Where a converter runs, and how many bytes the converters of one dispatcher may take there together."""

    name: str
    memory_bytes: int


@dataclass(eq=False)
class _Turn:
    """A caller who waits for a converter."""

    memory_bytes: int
    converter: asyncio.Future[Any] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    passes: int = 0


class ConverterPool:
    """Keeps between `minimum` and `maximum` converters; a pending one is what makes Ray add a node.

    `create` returns an actor that has still to start and then says on which Node, `destroy` ends one whatever it is
    doing. No converter takes more than `limit_bytes`: it has a limit of its own.
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
        self.maximum = maximum
        self._idle_s = idle_s
        self._limit_bytes = limit_bytes
        self._idle: deque[tuple[Any, float]] = deque()  # and since when; the longest idle on the left
        self._nodes: dict[Any, Node] = {}  # of each converter that has started
        self._taken: dict[Any, int] = {}  # by each that is at work, in bytes
        self._waiting: deque[_Turn] = deque()
        self._starts: set[asyncio.Task[None]] = set()
        self._starting = 0
        self._size = 0
        self._fill()

    @property
    def idle(self) -> int:
        return len(self._idle)

    @property
    def size(self) -> int:
        """How many converters there are, those that have still to start among them."""
        return self._size

    @property
    def memory_bytes(self) -> int:
        """What all nodes that have converters have for them."""
        return sum(node.memory_bytes for node in set(self._nodes.values()))

    @property
    def taken_bytes(self) -> int:
        """What the orders at work take."""
        return sum(self._taken.values())

    async def acquire(self, memory_bytes: int) -> Any:
        """Return a converter on a node that has so many bytes left; wait for one, in turn.

        What needs more than a whole node has begins where nothing else runs, up to the converter's own limit.
        """
        turn = _Turn(min(memory_bytes, self._limit_bytes))
        self._waiting.append(turn)
        self._serve()
        if not turn.converter.done():
            self._fill()
        try:
            return await turn.converter
        except asyncio.CancelledError:
            if turn.converter.done() and not turn.converter.cancelled():  # it came just before
                self.release(turn.converter.result())
            with suppress(ValueError):
                self._waiting.remove(turn)
                self._serve()  # those behind it may fit where it did not
            raise

    def release(self, converter: Any) -> None:
        del self._taken[converter]
        self._lend(converter)

    def discard(self, converter: Any) -> None:
        """End a converter that is dead, or busy with what nobody waits for; another takes its place."""
        del self._taken[converter]
        self._end(converter)
        self._serve()
        self._fill()

    def retire(self) -> None:
        """Keep no converter longer than somebody needs it: those of the next dispatcher wait for their CPUs."""
        self._minimum, self._idle_s = 0, 0.0
        self.shrink()

    def shrink(self) -> None:
        """Let go of converters that stood idle for too long, so that their nodes can leave."""
        long_ago = time.monotonic() - self._idle_s
        while self._size > self._minimum and self._idle and self._idle[0][1] <= long_ago:
            self._end(self._idle.popleft()[0])

    def _end(self, converter: Any) -> None:
        self._destroy(converter)
        self._nodes.pop(converter, None)
        self._size -= 1

    def _lend(self, converter: Any) -> None:
        """Give a converter that has nothing to do to whoever is next, or let it stand idle."""
        self._idle.append((converter, time.monotonic()))
        self._serve()
        if self._idle_s == 0:
            self.shrink()

    def _serve(self) -> None:
        """Give idle converters to those who wait, in their order.

        Where there is no room for one, those behind it go first, but only so often: then they wait as well, and
        what is at work makes room.
        """
        passed: list[_Turn] = []
        for turn in tuple(self._waiting):
            if any(earlier.passes >= _MOST_PASSES for earlier in passed):
                return
            if turn.converter.cancelled():
                continue
            converter = self._take(turn.memory_bytes)
            if converter is None:
                passed.append(turn)
                continue
            self._waiting.remove(turn)
            turn.converter.set_result(converter)
            for earlier in passed:
                earlier.passes += 1

    def _take(self, memory_bytes: int) -> Any:
        """Return an idle converter on a node with so much room, or None."""
        taken: Counter[Node] = Counter()
        for busy, bytes_ in self._taken.items():
            taken[self._nodes[busy]] += bytes_
        # The one used last: its memory is warm, and the others come closer to being let go.
        for entry in reversed(self._idle):
            node = self._nodes[entry[0]]
            if taken[node] == 0 or taken[node] + memory_bytes <= node.memory_bytes:
                self._idle.remove(entry)
                self._taken[entry[0]] = memory_bytes
                return entry[0]
        return None

    def _fill(self) -> None:
        wanted = min(self.maximum, max(self._minimum, self._size - self._starting + len(self._waiting)))
        while self._size < wanted:
            self._size += 1
            self._starting += 1
            task = asyncio.get_running_loop().create_task(self._start())
            self._starts.add(task)
            task.add_done_callback(self._starts.discard)

    async def _start(self) -> None:
        while True:
            converter = None
            try:
                converter = self._create()
                self._nodes[converter] = await converter.ready.remote()
            except Exception:
                log.exception("converter did not start")
                if converter is not None:
                    self._destroy(converter)
                await asyncio.sleep(_PAUSE_S)
            else:
                self._starting -= 1
                self._lend(converter)
                return
