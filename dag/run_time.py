"""Measures how long the converter calls of an attempt take together, and stops the attempt at its deadline."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager


class RunTime:
    """The time on converters that an attempt has left.

    Calls that run at the same time are added up. Waiting for a free converter or for the denoiser does not count, so a
    busy service fails no job.
    """

    def __init__(self, limit_s: float) -> None:
        self.left_s = limit_s
        """The time that is left. It is up to date while no call runs."""
        self._calls = 0  # running calls
        self._since = 0.0  # when `left_s` was last brought up to date, in the time of the event loop
        self._timeout = asyncio.timeout(None)

    @asynccontextmanager
    async def limit(self) -> AsyncIterator[None]:
        """Cancel the body and raise TimeoutError when the calls have used up the time. Enter this context only once."""
        async with self._timeout:
            yield

    @contextmanager
    def call(self) -> Iterator[None]:
        """Count the time of the body. Use this only inside of `limit`."""
        self._change_calls(1)
        try:
            yield
        finally:
            self._change_calls(-1)

    def _change_calls(self, by: int) -> None:
        now = asyncio.get_running_loop().time()
        self.left_s -= self._calls * (now - self._since)
        self._since = now
        self._calls += by
        if not self._timeout.expired():
            self._timeout.reschedule(now + self.left_s / self._calls if self._calls else None)
