"""Repeats a harmful action while the service works."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def every(seconds: float, act: Callable[[], object]) -> Iterator[None]:
    """Call `act` in a thread, with pauses of `seconds`, until the block ends. Then raise the error of `act`, if any."""
    ended = threading.Event()
    raised: list[Exception] = []

    def repeat() -> None:
        while not ended.wait(seconds):
            try:
                act()
            except Exception as error:  # noqa: BLE001 (raised again below)
                raised.append(error)
                return

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    if raised:
        raise raised[0]
