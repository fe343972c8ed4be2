"""Waits until something has happened."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_for(condition: Callable[[], bool], timeout: float = 60) -> None:
    """Call `condition` until it returns true. The test fails if this takes more than `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"this was not true within {timeout:.0f} s"
        time.sleep(0.1)
