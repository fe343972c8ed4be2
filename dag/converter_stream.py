"""Reads the messages of one converter call as typed events. In a stream, each item has a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from dag.messages import ConverterMessage, Decoded, PixelsReady
from dag.reference_stream import next_reference
from pixtools.jobs.outcomes import Failed, Started, Succeeded


@dataclass(frozen=True)
class HandOver:
    """A PixelsReady message together with its picture. `pixels` is the ObjectRef of the picture."""

    step: str
    inference: str | None
    pixels: Any


Event = Started | Succeeded | Failed | Decoded | HandOver


class StreamEnded(Exception):
    """The stream ended early, because the converter died between two messages."""


class ConverterAnswer:
    """The messages of a converter call that gave one answer, as events."""

    def __init__(self, messages: Sequence[ConverterMessage]) -> None:
        self._messages = iter(messages)

    async def next_event(self) -> Event:
        """Return the next event. Raises StreamEnded after the last one."""
        for message in self._messages:
            if isinstance(message, PixelsReady):
                raise TypeError("a cheap work item hands over no pixels")
            return message
        raise StreamEnded


class ConverterStream:
    """Turns the items of a Ray stream into events. Each item has to arrive within `deadline_s` seconds."""

    def __init__(self, items: AsyncIterator[Any], deadline_s: float) -> None:
        """Read `items`, the ObjectRefs of the messages and pictures of one converter call."""
        self._items = items
        self._deadline_s = deadline_s

    async def next_event(self) -> Event:
        """Return the next event.

        Raises TimeoutError if an item is late, StreamEnded or RayError if the converter died, and RayTaskError if the
        call itself failed.
        """
        async with asyncio.timeout(self._deadline_s):
            message = cast("ConverterMessage", await (await _or_ended(anext(self._items))))
        if not isinstance(message, PixelsReady):
            return message
        async with asyncio.timeout(self._deadline_s):
            # Do not await this ObjectRef, because that would copy the picture into the dispatcher.
            pixels = await _or_ended(next_reference(self._items))
        return HandOver(message.step, message.inference, pixels)


async def _or_ended(item: Awaitable[Any]) -> Any:
    try:
        return await item
    except StopAsyncIteration:
        raise StreamEnded from None
