"""Keeps the result of an expensive call for a short time, so that many requests cost one call."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class RecentResult(Generic[T]):
    """The last result of a call. Callers at the same time share one call."""

    def __init__(
        self, call: Callable[[], Awaitable[T]], max_age_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """A result is used for at most `max_age_s` seconds. `clock` returns seconds."""
        self._call = call
        self._max_age_s = max_age_s
        self._clock = clock
        self._task: asyncio.Task[T] | None = None
        self._ended_at = 0.0

    async def get(self) -> T:
        """Return a result that is at most `max_age_s` old. Raises the error of the call, which is kept as long."""
        if self._task is None or (self._task.done() and self._clock() - self._ended_at >= self._max_age_s):
            # The call belongs to no request. With the context of a request, Ray would cancel the calls of actors when
            # the client of this request disconnects, and all other requests would get the wrong result.
            self._task = asyncio.create_task(self._run(), context=contextvars.Context())
        return await asyncio.shield(self._task)  # a request that is cancelled must not cancel the call for the others

    async def _run(self) -> T:
        try:
            return await self._call()
        finally:
            self._ended_at = self._clock()
