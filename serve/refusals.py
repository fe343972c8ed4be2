"""Slows down clients whose requests are refused again and again. A loop of bad requests then costs little."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque

_WINDOW_S = 10.0
_FREE = 20  # refusals in the window that are answered at once
_STEP_S = 0.02  # each further refusal is answered this much later
_MAX_DELAY_S = 1.0
_REMEMBERED = _FREE + int(_MAX_DELAY_S / _STEP_S)  # more refusals of one client would not change the delay
_MAX_CLIENTS = 1000

# These statuses are ordinary answers to honest clients, for example to a client that waits for a job of another owner.
_ORDINARY = (401, 404, 409, 421)


class Refusals:
    """The latest refusals of each client."""

    def __init__(self) -> None:
        self._clients: OrderedDict[str, deque[float]] = OrderedDict()  # the client with the latest refusal is the last

    def delay_s(self, client: str, status: int) -> float:
        """Record an answer, and return how many seconds it has to wait. Only refusals wait."""
        if not 400 <= status < 500 or status in _ORDINARY:  # noqa: PLR2004
            return 0.0
        now = asyncio.get_running_loop().time()
        times = self._clients.setdefault(client, deque(maxlen=_REMEMBERED))
        self._clients.move_to_end(client)
        if len(self._clients) > _MAX_CLIENTS:
            self._clients.popitem(last=False)
        times.append(now)
        while times[0] < now - _WINDOW_S:
            times.popleft()
        return min(_MAX_DELAY_S, max(0, len(times) - _FREE) * _STEP_S)
