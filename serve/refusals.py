"""Spaces out the submissions of clients whose submissions are refused again and again.

A submission costs the service work before it can be refused. Without this, a loop of bad submissions from a few clients
would slow down all others.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict, deque
from dataclasses import dataclass, field

from pixtools.errors import TooManyRefusals

_WINDOW_S = 60.0
_BYTES_PER_UNIT = 1_000_000  # reading a body costs about as much as refusing it
_STEP_S = 0.2  # each unit above the free units adds this pause between two submissions
_MAX_PAUSE_S = 10.0
_MAX_WAIT_S = 20.0
_MAX_CLIENTS = 1000


@dataclass
class _Client:
    refusals: deque[tuple[float, float]] = field(default_factory=deque)  # time and units, oldest first
    units: float = 0.0
    last_turn: float = -math.inf


class Refusals:
    """The refused submissions of each client in the last minute.

    A refusal counts one unit, and one more for each megabyte of its body. `free_units` have no effect.
    """

    def __init__(self, free_units: int) -> None:
        self._free_units = free_units
        self._clients: OrderedDict[str, _Client] = OrderedDict()  # the client with the latest refusal is the last

    def record(self, name: str, body_bytes: int) -> None:
        """Note that a submission of a client was refused, or that the client left before the answer."""
        client = self._clients.setdefault(name, _Client())
        self._clients.move_to_end(name)
        if len(self._clients) > _MAX_CLIENTS:
            self._clients.popitem(last=False)
        units = 1 + body_bytes / _BYTES_PER_UNIT
        client.refusals.append((asyncio.get_running_loop().time(), units))
        client.units += units

    async def wait_for_turn(self, name: str) -> None:
        """Wait until the client may send the body of its next submission.

        Raises TooManyRefusals if the client has to wait for more than 20 seconds.
        """
        client = self._clients.get(name)
        if client is None:
            return
        now = asyncio.get_running_loop().time()
        while client.refusals and client.refusals[0][0] < now - _WINDOW_S:
            client.units -= client.refusals.popleft()[1]
        if client.units <= self._free_units:
            return
        pause_s = min(_MAX_PAUSE_S, _STEP_S * (client.units - self._free_units))
        turn = max(now, client.last_turn + pause_s)
        if turn - now > _MAX_WAIT_S:
            raise TooManyRefusals(
                "Too many submissions of this client were refused in the last minute (PIXTOOLS_MAX_CLIENT_REFUSALS). "
                "Correct the request, and send it again in a minute."
            )
        client.last_turn = turn
        await asyncio.sleep(turn - now)
