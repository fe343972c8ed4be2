"""A semaphore that counts bytes. It limits the memory of the pictures that are denoised at the same time."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from types import TracebackType
from typing import Self

from pixtools.waiting import wait_at_most


class ByteSemaphore:
    """Grants reservations of up to `max_bytes` bytes in total, in the order in which they were requested.

    A reservation of more than `max_bytes` is granted as soon as no other reservation is held.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held_bytes = 0
        self._waiting: deque[Reservation] = deque()

    def reserve(self, bytes_: int) -> Reservation:
        """Return a reservation for an `async with` block.

        The start of the block requests the bytes, but does not wait for them: see `granted_within`. The end of the
        block releases the bytes.
        """
        return Reservation(self, bytes_)

    def enqueue(self, reservation: Reservation) -> None:
        """Put a reservation at the end of the queue."""
        self._waiting.append(reservation)
        self._grant()

    def release(self, reservation: Reservation) -> None:
        """Free the bytes of a reservation, or remove it from the queue if it was not granted yet."""
        if reservation.granted.is_set():
            self._held_bytes -= reservation.bytes
        else:
            with suppress(ValueError):
                self._waiting.remove(reservation)
        self._grant()

    def _grant(self) -> None:
        while self._waiting and (self._held_bytes == 0 or self._held_bytes + self._waiting[0].bytes <= self._max_bytes):
            reservation = self._waiting.popleft()
            self._held_bytes += reservation.bytes
            reservation.granted.set()


class Reservation:
    """A number of bytes that one picture waits for and then holds."""

    def __init__(self, semaphore: ByteSemaphore, bytes_: int) -> None:
        self._semaphore = semaphore
        self.bytes = bytes_
        self.granted = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._semaphore.enqueue(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._semaphore.release(self)

    async def granted_within(self, seconds: float) -> bool:
        """Wait for up to `seconds`. Return whether the bytes are granted."""
        return await wait_at_most(self.granted, seconds)
