"""Follows jobs for clients: sends server-sent events, and waits until a job has ended.

A hint triggers an event at once. Polling finds changes whose hint was lost.
"""

from __future__ import annotations

import asyncio
import math
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from starlette.concurrency import run_in_threadpool

from pixtools.database.job_store import JobStore
from pixtools.errors import DatabaseDown, TooManyStreams
from pixtools.redis.hints import CHANGED, Hints, read_changed
from pixtools.states import JOB_ENDED, JobState
from pixtools.waiting import wait_at_most
from serve.job_bodies import JobBodies, JobBody

# Streams and waiting requests together. This is half of max_ongoing_requests in serve_config.yaml: the other half stays
# free for short requests.
_MAX_WATCHERS = 100
_MAX_SILENCE_S = 15.0  # some proxies close streams that are silent for longer


@dataclass(eq=False)
class _Watcher:
    """A stream or a request that watches a job.

    A hint sets `moved`. `state` is the state of the job that the last hint contained, or None.
    """

    moved: asyncio.Event = field(default_factory=asyncio.Event)
    state: JobState | None = None


class ProgressFeed:
    """Watches jobs for the event streams and the waiting requests of this process, with one Redis subscription."""

    def __init__(
        self,
        store: JobStore,
        bodies: JobBodies,
        hints: Hints,
        poll_interval_s: float,
        *,
        max_silence_s: float = _MAX_SILENCE_S,
        lifetime_s: float = math.inf,
    ) -> None:
        self._store = store
        self._bodies = bodies
        self._hints = hints
        self._poll_interval_s = poll_interval_s
        self._max_silence_s = max_silence_s
        self._lifetime_s = lifetime_s
        self._watchers: dict[str, set[_Watcher]] = defaultdict(set)

    async def listen(self) -> None:
        """Wake the streams and requests that watch a job when the job changes. Runs until it is cancelled."""
        async for message in self._hints.listen(CHANGED):
            job_id, state = read_changed(message)
            for watcher in self._watchers.get(job_id, ()):
                # Hints may overtake each other.
                if watcher.state not in JOB_ENDED or state is None:
                    watcher.state = state
                watcher.moved.set()

    @property
    def has_capacity(self) -> bool:
        """Whether one more stream or waiting request leaves enough capacity for other requests.

        A request counts only after its answer has begun. So requests that arrive at the same moment may exceed
        `_MAX_WATCHERS` a little.
        """
        return sum(map(len, self._watchers.values())) < _MAX_WATCHERS

    def require_capacity(self) -> None:
        """Raise TooManyStreams if one more stream would leave too little capacity for other requests."""
        if not self.has_capacity:
            raise TooManyStreams("Read the job from time to time, or open the event stream again later.")

    async def wait_for_end(self, owner: str, job_id: uuid.UUID, seconds: float, *, is_new: bool = False) -> None:
        """Wait until the job has ended, but at most `seconds`. Raises NotFound if the owner has no such job.

        A hint that contains the state of the job needs no query. While the database is down, the job counts as running.
        The last query may end after `seconds`. If `is_new` is true, the job was queued a moment ago, so there is no
        query before the first hint or the first poll interval. A late hint of an earlier attempt may end the wait too
        early.
        """
        end = time.monotonic() + seconds
        with self._watching(job_id) as watcher:
            state = JobState.QUEUED if is_new else await self._state(owner, job_id)
            while state not in JOB_ENDED and (left := end - time.monotonic()) > 0:
                is_hinted = await wait_at_most(watcher.moved, min(left, self._poll_interval_s))
                watcher.moved.clear()
                state = (watcher.state if is_hinted else None) or await self._state(owner, job_id)

    async def _state(self, owner: str, job_id: uuid.UUID) -> JobState:
        try:
            return (await run_in_threadpool(self._store.status, owner, job_id)).state
        except DatabaseDown:
            return JobState.RUNNING

    async def events(self, owner: str, job_id: uuid.UUID, last: int) -> AsyncIterator[str]:
        """Yield an event whenever the job has a newer version than the client knows, until the job has ended.

        `last` is the version that the client knows at first. Each event holds the whole job, so a client that missed
        events has lost nothing. The id of an event is the version of the job. After a long silence, the stream sends a
        comment, so that proxies keep the stream open.

        The stream also ends after its lifetime. Then an EventSource connects again, if its user is still there.
        """
        with self._watching(job_id) as watcher:
            sent_at = began = time.monotonic()
            while time.monotonic() - began < self._lifetime_s:
                newer = await self._read_newer(owner, job_id, last)
                if newer is not None:
                    last = newer.version
                    yield f"event: job\nid: {last}\ndata: {newer.json.decode()}\n\n"
                    sent_at = time.monotonic()
                    if newer.state in JOB_ENDED:
                        return
                elif time.monotonic() - sent_at >= self._max_silence_s:
                    yield ": waiting\n\n"
                    sent_at = time.monotonic()
                if await wait_at_most(watcher.moved, self._poll_interval_s):
                    watcher.moved.clear()

    @contextmanager
    def _watching(self, job_id: uuid.UUID) -> Iterator[_Watcher]:
        watcher = _Watcher()
        self._watchers[str(job_id)].add(watcher)
        try:
            yield watcher
        finally:
            self._watchers[str(job_id)].discard(watcher)
            if not self._watchers[str(job_id)]:
                del self._watchers[str(job_id)]

    async def _read_newer(self, owner: str, job_id: uuid.UUID, last: int) -> JobBody | None:
        """Return the job if its version is newer than `last`. Return None otherwise, or while the database is down."""
        try:
            return await run_in_threadpool(self._bodies.newer_than, last, owner, job_id)
        except DatabaseDown:
            return None
