"""The event streams of jobs on the real stores. Hints make events fast. Polling finds changes whose hint was lost."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, aclosing, contextmanager
from functools import partial

import pytest
from jobs import ANN, fail, new_job, submit, submitted

from pixtools.blob_store import BlobStore
from pixtools.errors import NotFound, TooManyStreams
from pixtools.redis.hints import CHANGED, Hints, changed
from pixtools.states import JobState
from serve.job_bodies import JobBodies
from serve.progress import ProgressFeed

pytestmark = pytest.mark.anyio

NEVER_S = 600.0


@pytest.fixture
async def hints(settings) -> AsyncIterator[Hints]:
    hints = Hints(settings)
    yield hints
    await hints.close()


@pytest.fixture
def new_feed(settings, store, deliveries, hints):
    """Return a function that creates a feed."""
    return partial(ProgressFeed, store, JobBodies(store, BlobStore(settings), deliveries), hints)


def follow(feed: ProgressFeed, job_id: uuid.UUID, last: int = 0):
    """Open the event stream of a job."""
    return aclosing(feed.events(ANN, job_id, last))


@contextmanager
def listening(feed: ProgressFeed) -> Iterator[None]:
    task = asyncio.create_task(feed.listen())
    try:
        yield
    finally:
        task.cancel()


async def test_a_change_whose_hint_was_lost_is_found_by_polling(store, new_feed):
    feed = new_feed(poll_interval_s=0.05)  # this feed does not listen to hints
    job_id = submit(store).job_id
    async with follow(feed, job_id) as stream, asyncio.timeout(20):
        assert '"state":"queued"' in await anext(stream)
        await asyncio.to_thread(store.cancel, ANN, job_id)

        assert '"state":"cancelled"' in await anext(stream)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


async def test_a_hint_makes_a_change_visible_before_the_next_poll(store, hints, new_feed):
    feed = new_feed(poll_interval_s=NEVER_S)
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


async def test_a_stream_continues_after_the_version_that_its_reader_has_seen(store, new_feed):
    feed = new_feed(poll_interval_s=0.05)
    claimed = submitted(store, new_job())
    seen = store.status(ANN, claimed.id).version
    async with follow(feed, claimed.id, last=seen) as stream, asyncio.timeout(20):
        following = asyncio.create_task(anext(stream))
        await asyncio.sleep(0.2)
        assert not following.done()
        await asyncio.to_thread(fail, store, claimed, "a", settle=True)

        event = await following
        assert int(event.split("id: ")[1].split("\n")[0]) > seen


async def test_a_silent_stream_sends_a_comment_so_that_proxies_keep_it_open(store, new_feed):
    feed = new_feed(poll_interval_s=0.02, max_silence_s=0.1)
    async with follow(feed, submit(store).job_id) as stream, asyncio.timeout(20):
        assert (await anext(stream)).startswith("event: job\n")

        assert await anext(stream) == ": waiting\n\n"


async def test_a_stream_ends_after_its_lifetime(store, new_feed):
    feed = new_feed(poll_interval_s=0.02, lifetime_s=0.2)
    async with follow(feed, submit(store).job_id) as stream, asyncio.timeout(20):
        events = [event async for event in stream]

    assert [event[:10] for event in events] == ["event: job"]


async def test_a_process_has_a_limited_number_of_streams_and_a_closed_one_makes_room(store, new_feed):
    feed = new_feed(poll_interval_s=NEVER_S)
    job_id = submit(store).job_id
    async with AsyncExitStack() as streams:
        for _ in range(100):
            feed.require_capacity()
            await anext(await streams.enter_async_context(follow(feed, job_id)))
        with pytest.raises(TooManyStreams):
            feed.require_capacity()
    feed.require_capacity()


async def test_waiting_ends_with_the_job_although_the_hint_was_lost(store, new_feed):
    feed = new_feed(poll_interval_s=0.05)
    claimed = submitted(store, new_job())
    async with asyncio.timeout(20):
        waiting = asyncio.create_task(feed.wait_for_end(ANN, claimed.id, 60))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        await asyncio.to_thread(fail, store, claimed, "a", settle=True)
        await waiting


async def test_a_hint_ends_the_waiting_before_the_next_poll(store, hints, new_feed):
    feed = new_feed(poll_interval_s=NEVER_S)
    job_id = submit(store).job_id
    with listening(feed):
        async with asyncio.timeout(20):
            waiting = asyncio.create_task(feed.wait_for_end(ANN, job_id, NEVER_S))
            await asyncio.sleep(0.2)
            await asyncio.to_thread(store.cancel, ANN, job_id)
            while not waiting.done():
                await hints.publish(CHANGED, str(job_id))
                await asyncio.sleep(0.05)
    await waiting


async def test_a_hint_with_the_state_of_the_job_needs_no_query(store, hints, new_feed):
    feed = new_feed(poll_interval_s=NEVER_S)
    job_id = submit(store).job_id  # it stays queued, so only the hint can end the waiting
    with listening(feed):
        async with asyncio.timeout(20):
            waiting = asyncio.create_task(feed.wait_for_end(ANN, job_id, NEVER_S, is_new=True))
            for _ in range(5):
                await hints.publish(CHANGED, changed(job_id, JobState.RUNNING))
                await asyncio.sleep(0.05)
            assert not waiting.done()
            while not waiting.done():  # the first hints may come before the subscription
                await hints.publish(CHANGED, changed(job_id, JobState.SUCCEEDED))
                await asyncio.sleep(0.05)
    await waiting


async def test_waiting_ends_after_the_time_and_leaves_no_watcher(store, new_feed):
    feed = new_feed(poll_interval_s=NEVER_S)
    async with asyncio.timeout(20):
        await feed.wait_for_end(ANN, submit(store).job_id, 0.1)
    assert not feed._watchers


async def test_waiting_for_an_unknown_job_fails_at_once(new_feed):
    with pytest.raises(NotFound):
        await new_feed(poll_interval_s=NEVER_S).wait_for_end(ANN, uuid.uuid4(), NEVER_S)
