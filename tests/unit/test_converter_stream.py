"""The stream of a converter call is read as events. In these tests, futures replace Ray's ObjectRefs."""

from __future__ import annotations

import asyncio
import time
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


class Items:
    """A stream with the methods of Ray's ObjectRefGenerator. `pause_s` passes before each item."""

    def __init__(self, *references: Any, pause_s: float = 0) -> None:
        self._left = list(references)
        self.pause_s = pause_s
        self._ready_at = time.monotonic() + pause_s
        self.values_fetched = 0

    def next_ready(self) -> bool:
        return bool(self._left) and time.monotonic() >= self._ready_at

    def is_finished(self) -> bool:
        return not self._left

    async def __anext__(self) -> Any:
        if not self._left:
            raise StopAsyncIteration
        if not self.next_ready():  # then Ray waits for the value, and so fetches it
            self.values_fetched += 1
            await asyncio.sleep(max(0.0, self._ready_at - time.monotonic()))
        self._ready_at = time.monotonic() + self.pause_s
        return self._left.pop(0)


async def test_messages_arrive_in_their_order():
    stream = ConverterStream(Items(reference(Started("a")), reference(Decoded())), 1)

    assert [await stream.next_event() for _ in range(2)] == [Started("a"), Decoded()]


async def test_announced_pixels_arrive_as_one_event_and_are_not_opened():
    class Unopened:
        def __await__(self):
            raise AssertionError("the pixels were opened")

    pixels = Unopened()
    stream = ConverterStream(Items(reference(PixelsReady("source", inference="d")), pixels, reference(Decoded())), 1)

    assert await stream.next_event() == HandOver("source", "d", pixels)
    assert await stream.next_event() == Decoded()


@pytest.mark.parametrize("announced", [False, True])
async def test_a_stream_that_ends_early_is_an_error(announced):
    stream = ConverterStream(Items(*[reference(PixelsReady("source"))] * announced), 1)

    with pytest.raises(StreamEnded):
        await stream.next_event()


async def test_each_item_has_the_whole_deadline():
    items = [reference(Started("a")), reference(PixelsReady("source")), reference("pixels")]
    stream = ConverterStream(Items(*items, pause_s=0.06), 0.1)

    assert await stream.next_event() == Started("a")
    assert isinstance(await stream.next_event(), HandOver)


async def test_a_late_message_is_a_timeout():
    stream = ConverterStream(Items(reference(Started("a")), pause_s=5), 0.02)

    with pytest.raises(TimeoutError):
        await stream.next_event()


async def test_pixels_that_do_not_follow_their_announcement_are_a_timeout():
    items = Items(reference(PixelsReady("source")), "pixels")
    items.pause_s = 5

    with pytest.raises(TimeoutError):
        await ConverterStream(items, 0.02).next_event()


async def test_pixels_that_come_a_moment_later_are_not_fetched():
    items = Items(reference(PixelsReady("source")), "pixels", pause_s=0.05)
    stream = ConverterStream(items, 1)

    assert await stream.next_event() == HandOver("source", None, "pixels")
    assert items.values_fetched == 1  # only the value of the message
