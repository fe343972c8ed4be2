"""Two ways to wait on the event loop: until the database answers, and for a limited time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from pixtools.errors import DatabaseDown
from pixtools.logs import OutageLog
from pixtools.retries import STORE_PAUSE_S

T = TypeVar("T")

_outages = OutageLog("database")  # one for all waiting calls of this process


async def until_database_answers(
    call: Callable[[], Awaitable[T]], *, doing: str, after: DatabaseDown | None = None, outages: OutageLog = _outages
) -> T:
    """Return the result of `call`. While it raises DatabaseDown, call it again after a pause.

    `call` may have been carried out although it raised DatabaseDown, so it must be safe to repeat. `doing` says in the
    log which work waits, for example "claiming jobs". `after` is the error of an earlier call, if there was one: then
    the pause comes first. Raises every other error of `call`.
    """
    error = after
    with outages.waiter() as waiter:
        while True:
            if error is not None:
                waiter.failed(error, doing)
                await asyncio.sleep(STORE_PAUSE_S)
                error = None  # its traceback refers to this frame: free both at once
            try:
                return await call()
            except DatabaseDown as down:
                error = down


async def wait_at_most(awaited: asyncio.Event | Awaitable[object], seconds: float) -> bool:
    """Wait for an event, or for an awaitable to end, and return whether that happened within `seconds`.

    An awaitable that takes longer is cancelled. Raises the errors of the awaitable.
    """
    try:
        async with asyncio.timeout(seconds) as timeout:
            await (awaited.wait() if isinstance(awaited, asyncio.Event) else awaited)
    except TimeoutError:
        if timeout.expired():
            return False
        raise  # it is the awaitable's own error
    return True
