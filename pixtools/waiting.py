"""Two ways to wait on the event loop: until the database answers, and for a limited time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from pixtools.errors import DatabaseDown
from pixtools.logs import OutageLog
from pixtools.retries import STORE_PAUSE_S

T = TypeVar("T")

_outages = OutageLog("database")  # all waiting calls of this process share it


async def until_database_answers(
    call: Callable[[], Awaitable[T]], *, doing: str, after: DatabaseDown | None = None, outages: OutageLog = _outages
) -> T:
    """Return the result of `call`. If `call` raises DatabaseDown, call it again after a pause.

    `call` must be safe to repeat, because it may raise DatabaseDown after the database has committed. `doing` describes
    the call in the log, for example "claiming jobs". If the caller has already tried and failed, `after` is the error
    of that try, and this function pauses before its first call. Raises every other error of `call`.
    """
    error = after
    with outages.waiter() as waiter:
        while True:
            if error is not None:
                waiter.failed(error, doing)
                await asyncio.sleep(STORE_PAUSE_S)
                error = None  # the traceback of the error refers to this frame: break this cycle at once
            try:
                return await call()
            except DatabaseDown as down:
                error = down


async def wait_at_most(awaited: asyncio.Event | Awaitable[object], seconds: float) -> bool:
    """Wait until an event is set or an awaitable ends. Return whether this happened within `seconds`.

    An awaitable that takes longer is cancelled. Raises the errors of the awaitable.
    """
    try:
        async with asyncio.timeout(seconds) as timeout:
            await (awaited.wait() if isinstance(awaited, asyncio.Event) else awaited)
    except TimeoutError:
        if timeout.expired():
            return False
        raise  # the awaitable itself raised this error
    return True
