"""Reads the items of a Ray stream as references, without their values."""

from __future__ import annotations

import asyncio
from typing import Any

_PAUSE_S = 0.005


async def next_reference(items: Any) -> Any:
    """Wait for the next ObjectRef of a Ray stream, and leave its value on the node where it is.

    `anext` would wait for the value, and so copy the value to the node of the caller. On another node than the one that
    made the picture, this would send all pixels over the network. Use this function only for an item that comes soon,
    because it looks for the item 200 times a second.

    Raises StopAsyncIteration at the end of the stream. If the call failed, the value of the reference is the error.
    """
    while not (items.next_ready() or items.is_finished()):  # noqa: ASYNC110 (Ray has no event for this)
        await asyncio.sleep(_PAUSE_S)
    return await anext(items)
