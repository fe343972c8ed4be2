"""An event loop whose clock jumps, so that a test of timeouts and intervals takes only milliseconds.

This fixture makes a test module use the loop for its `async def` tests:

    @pytest.fixture
    def anyio_backend():
        return "asyncio", {"loop_factory": VirtualTimeLoop}
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from typing import Any


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop that does not wait for a timer. As soon as no task can run, it moves its clock to the next timer.

    The clock stands still while a call of `asyncio.to_thread` runs. Do not use sockets: while a task waits for a
    socket, the clock may jump.
    """

    def __init__(self) -> None:
        self._virtual = _Selector()
        self.inner_tasks: set[asyncio.Task[Any]] = set()  # tasks that other tasks created, and that have not ended
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now

    def create_task(self, *args: Any, **kwargs: Any) -> asyncio.Task[Any]:
        task = super().create_task(*args, **kwargs)
        if self.is_running():
            self.inner_tasks.add(task)
            task.add_done_callback(self.inner_tasks.discard)
        return task

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        future = super().run_in_executor(executor, func, *args)
        self._virtual.thread_calls.add(future)
        future.add_done_callback(self._virtual.thread_calls.discard)
        return future


class _Selector(selectors.DefaultSelector):
    """A selector that moves the clock at the point where a real selector waits."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.thread_calls: set[asyncio.Future[Any]] = set()

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        if self.thread_calls:
            return super().select(None)  # a thread runs: the end of its call wakes the loop
        self.now += timeout
        return super().select(0)


async def cancel_other_tasks() -> None:
    """Cancel all tasks that other tasks created, except the calling task. Wait until the cancelled tasks have ended."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    others = loop.inner_tasks - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
