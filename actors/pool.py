"""The converters of one dispatcher: more of them when work waits, fewer when they stand idle."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

log = logging.getLogger(__name__)

_PAUSE_S = 1.0  # between failures to start a converter


class ConverterPool:
    """Keeps between `minimum` and `maximum` converters; a pending one is what makes Ray add a node.

    `create` returns an actor that has still to start, `destroy` ends one whatever it is doing.
    """

    def __init__(
        self,
        create: Callable[[], Any],
        destroy: Callable[[Any], None],
        *,
        minimum: int,
        maximum: int,
        idle_s: float,
    ) -> None:
        self._create = create
        self._destroy = destroy
        self._minimum = minimum
        self.maximum = maximum
        self._idle_s = idle_s
        self._idle: deque[tuple[Any, float]] = deque()  # and since when; the longest idle on the left
        self._waiting: deque[asyncio.Future[Any]] = deque()
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

    async def acquire(self) -> Any:
        if self._idle:
            # The one used last: its memory is warm, and the others come closer to being let go.
            return self._idle.pop()[0]
        turn: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._fill()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it came just before
                self.release(turn.result())
            with suppress(ValueError):
                self._waiting.remove(turn)
            raise

    def release(self, converter: Any) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.cancelled():
                turn.set_result(converter)
                return
        self._idle.append((converter, time.monotonic()))
        if self._idle_s == 0:
            self.shrink()

    def discard(self, converter: Any) -> None:
        """End a converter that is dead, or busy with what nobody waits for; another takes its place."""
        self._destroy(converter)
        self._size -= 1
        self._fill()

    def retire(self) -> None:
        """Keep no converter longer than somebody needs it: those of the next dispatcher wait for their CPUs."""
        self._minimum, self._idle_s = 0, 0.0
        self.shrink()

    def shrink(self) -> None:
        """Let go of converters that stood idle for too long, so that their nodes can leave."""
        long_ago = time.monotonic() - self._idle_s
        while self._size > self._minimum and self._idle and self._idle[0][1] <= long_ago:
            converter, _ = self._idle.popleft()
            self._destroy(converter)
            self._size -= 1

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
                await converter.ready.remote()
            except Exception:
                log.exception("converter did not start")
                if converter is not None:
                    self._destroy(converter)
                await asyncio.sleep(_PAUSE_S)
            else:
                self._starting -= 1
                self.release(converter)
                return
