"""One call serves many requests, for a limited time."""

from __future__ import annotations

import asyncio

import pytest

from serve.recent_result import RecentResult

pytestmark = pytest.mark.anyio


class Check:
    """A check that waits until it may end. It counts its calls."""

    def __init__(self) -> None:
        self.calls = 0
        self.now = 0.0
        self.may_end = asyncio.Event()
        self.error: Exception | None = None

    async def run(self) -> int:
        self.calls += 1
        number = self.calls
        await self.may_end.wait()
        if self.error is not None:
            raise self.error
        return number


@pytest.fixture
async def check() -> Check:
    return Check()


@pytest.fixture
async def recent(check) -> RecentResult[int]:
    return RecentResult(check.run, 2.0, lambda: check.now)


async def test_callers_at_the_same_time_share_one_call(check, recent):
    callers = [asyncio.create_task(recent.get()) for _ in range(100)]
    await asyncio.sleep(0)
    check.may_end.set()

    assert await asyncio.gather(*callers) == [1] * 100


async def test_a_result_is_used_for_two_seconds_from_its_arrival(check, recent):
    first = asyncio.create_task(recent.get())
    await asyncio.sleep(0)
    check.now = 5.0  # the call itself took five seconds
    check.may_end.set()
    assert await first == 1

    check.now = 6.9
    assert await recent.get() == 1
    check.now = 7.0
    assert await recent.get() == 2


async def test_an_error_is_kept_as_long_as_a_result(check, recent):
    check.may_end.set()
    check.error = ConnectionError("down")
    for _ in range(2):
        with pytest.raises(ConnectionError):
            await recent.get()
    assert check.calls == 1

    check.now, check.error = 2.0, None
    assert await recent.get() == 2


async def test_a_caller_that_is_cancelled_does_not_cancel_the_call_for_the_others(check, recent):
    gone, stays = asyncio.create_task(recent.get()), asyncio.create_task(recent.get())
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.sleep(0)
    check.may_end.set()

    assert await stays == 1
    assert gone.cancelled()
