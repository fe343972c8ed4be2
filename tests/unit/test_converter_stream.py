"""The stream of a converter call is read as events. In these tests, futures replace Ray's ObjectRefs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from dag.converter_stream import ConverterStream, HandOver, StreamEnded
from dag.messages import Decoded, PixelsReady
from pixtools.jobs.outcomes import Started

pytestmark = pytest.mark.anyio


def reference(item: Any) -> asyncio.Future[Any]:
    """Return a future that holds the item. A future can be awaited like an ObjectRef."""
    future: asyncio.Future[Any] = asyncio.Future()
    future.set_result(item)
    return future


async def items_of(*references: asyncio.Future[Any], pause_s: float = 0) -> AsyncIterator[asyncio.Future[Any]]:
    """Yield the references, and pause before each reference."""
    for each in references:
        await asyncio.sleep(pause_s)
        yield each


async def test_messages_arrive_in_their_order():
    stream = ConverterStream(items_of(reference(Started("a")), reference(Decoded())), 1)

    assert [await stream.next_event() for _ in range(2)] == [Started("a"), Decoded()]


async def test_announced_pixels_arrive_as_one_event_and_are_not_opened():
    class Unopened:
        def __await__(self):
            raise AssertionError("the pixels were opened")

    pixels = Unopened()
    stream = ConverterStream(items_of(reference(PixelsReady("source", inference="d")), pixels, reference(Decoded())), 1)

    assert await stream.next_event() == HandOver("source", "d", pixels)
    assert await stream.next_event() == Decoded()


@pytest.mark.parametrize("announced", [False, True])
async def test_a_stream_that_ends_early_is_an_error(announced):
    stream = ConverterStream(items_of(*[reference(PixelsReady("source"))] * announced), 1)

    with pytest.raises(StreamEnded):
        await stream.next_event()


async def test_each_item_has_the_whole_deadline():
    items = [reference(Started("a")), reference(PixelsReady("source")), reference("pixels")]
    stream = ConverterStream(items_of(*items, pause_s=0.06), 0.1)

    assert await stream.next_event() == Started("a")
    assert isinstance(await stream.next_event(), HandOver)


async def test_a_late_message_is_a_timeout():
    stream = ConverterStream(items_of(reference(Started("a")), pause_s=5), 0.02)

    with pytest.raises(TimeoutError):
        await stream.next_event()


async def test_pixels_that_do_not_follow_their_announcement_are_a_timeout():
    async def items() -> AsyncIterator[Any]:
        yield reference(PixelsReady("source"))
        await asyncio.sleep(5)

    with pytest.raises(TimeoutError):
        await ConverterStream(items(), 0.02).next_event()
