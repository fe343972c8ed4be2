"""Places for pictures, by the bytes that they take."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from types import TracebackType
from typing import Self


class Places:
    """Lets in so many bytes at a time, in the order in which they came; what is larger goes in alone."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._taken = 0
        self._waiting: deque[_Place] = deque()

    def of(self, bytes_: int) -> _Place:
        """Return a place to be waited for in an `async with`, which gives it back in the end."""
        return _Place(self, bytes_)

    def queue(self, place: _Place) -> None:
        self._waiting.append(place)
        self._let_in()

    def leave(self, place: _Place) -> None:
        if place.entered.is_set():
            self._taken -= place.bytes
        else:
            with suppress(ValueError):
                self._waiting.remove(place)
        self._let_in()

    def _let_in(self) -> None:
        while self._waiting and (self._taken == 0 or self._taken + self._waiting[0].bytes <= self._most):
            place = self._waiting.popleft()
            self._taken += place.bytes
            place.entered.set()


class _Place:
    def __init__(self, places: Places, bytes_: int) -> None:
        self._places, self.bytes = places, bytes_
        self.entered = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._places.queue(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._places.leave(self)

    async def comes_within(self, seconds: float) -> bool:
        """Wait so long at most; say whether it is there."""
        try:
            async with asyncio.timeout(seconds):
                await self.entered.wait()
        except TimeoutError:
            return False
        return True
