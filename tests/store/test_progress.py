"""The event streams of jobs on the real stores. Hints make events fast. Polling finds changes whose hint was lost."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, aclosing, contextmanager

import pytest
from jobs import ANN, fail, new_job, submit, submitted

from pixtools.blob_store import BlobStore
from pixtools.errors import TooManyStreams
from pixtools.redis.hints import CHANGED, Hints
from serve.answers import JobAnswer, job_answer
from serve.progress import ProgressFeed

pytestmark = pytest.mark.anyio

NEVER_S = 600.0


@pytest.fixture
async def hints(settings) -> AsyncIterator[Hints]:
    hints = Hints(settings)
    yield hints
    await hints.close()


@pytest.fixture
def follow(settings, store):
    """Return a function that opens the event stream of a job."""
    blobs = BlobStore(settings)

    def open_stream(feed: ProgressFeed, job_id: uuid.UUID, last: int = 0):
        def read() -> tuple[int, JobAnswer]:
            view = store.get(ANN, job_id)
            return view.job.version, job_answer(view, blobs)

        return aclosing(feed.events(ANN, job_id, last, read))

    return open_stream


@contextmanager
def listening(feed: ProgressFeed) -> Iterator[None]:
    task = asyncio.create_task(feed.listen())
    try:
        yield
    finally:
        task.cancel()


async def test_a_change_whose_hint_was_lost_is_found_by_polling(store, hints, follow):
    feed = ProgressFeed(store, hints, poll_interval_s=0.05)  # this feed does not listen to hints
    job_id = submit(store).job_id
    async with follow(feed, job_id) as stream, asyncio.timeout(20):
        assert '"state":"queued"' in await anext(stream)
        await asyncio.to_thread(store.cancel, ANN, job_id)

        assert '"state":"cancelled"' in await anext(stream)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


async def test_a_hint_makes_a_change_visible_before_the_next_poll(store, hints, follow):
    feed = ProgressFeed(store, hints, poll_interval_s=NEVER_S)
    job_id = submit(store).job_id
    async with follow(feed, job_id) as stream, asyncio.timeout(20):
        with listening(feed):
            await anext(stream)
            following = asyncio.create_task(anext(stream))
            await asyncio.to_thread(store.cancel, ANN, job_id)
            while not following.done():  # the first hints may come before the subscription
                await hints.publish(CHANGED, str(job_id))
                await asyncio.sleep(0.05)

            assert '"state":"cancelled"' in following.result()


async def test_a_stream_continues_after_the_version_that_its_reader_has_seen(store, hints, follow):
    feed = ProgressFeed(store, hints, poll_interval_s=0.05)
    claimed = submitted(store, new_job())
    seen = store.version(ANN, claimed.id)
    async with follow(feed, claimed.id, last=seen) as stream, asyncio.timeout(20):
        following = asyncio.create_task(anext(stream))
        await asyncio.sleep(0.2)
        assert not following.done()
        await asyncio.to_thread(fail, store, claimed, "a", settle=True)

        event = await following
        assert int(event.split("id: ")[1].split("\n")[0]) > seen


async def test_a_silent_stream_sends_a_comment_so_that_proxies_keep_it_open(store, hints, follow):
    feed = ProgressFeed(store, hints, poll_interval_s=0.02, max_silence_s=0.1)
    async with follow(feed, submit(store).job_id) as stream, asyncio.timeout(20):
        assert (await anext(stream)).startswith("event: job\n")

        assert await anext(stream) == ": waiting\n\n"


async def test_a_stream_ends_after_its_lifetime(store, hints, follow):
    feed = ProgressFeed(store, hints, poll_interval_s=0.02, lifetime_s=0.2)
    async with follow(feed, submit(store).job_id) as stream, asyncio.timeout(20):
        events = [event async for event in stream]

    assert [event[:10] for event in events] == ["event: job"]


async def test_a_process_has_a_limited_number_of_streams_and_a_closed_one_makes_room(store, hints, follow):
    feed = ProgressFeed(store, hints, poll_interval_s=NEVER_S)
    job_id = submit(store).job_id
    async with AsyncExitStack() as streams:
        for _ in range(100):
            feed.require_capacity()
            await anext(await streams.enter_async_context(follow(feed, job_id)))
        with pytest.raises(TooManyStreams):
            feed.require_capacity()
    feed.require_capacity()
