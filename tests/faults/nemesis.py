"""What is done to the service again and again while it works."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def every(seconds: float, act: Callable[[], object]) -> Iterator[None]:
    """Act in a thread until the block is left; what `act` raises is raised there."""
    leave = threading.Event()
    raised: list[Exception] = []

    def repeat() -> None:
        while not leave.wait(seconds):
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
        leave.set()
        thread.join()
    if raised:
        raise raised[0]
