"""Server-sent events: a job as it moves, told by hints, with a poll each second for those that got lost."""

from __future__ import annotations

import asyncio
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Callable

from starlette.concurrency import run_in_threadpool

from pixtools.database.job_store import JobStore
from pixtools.errors import DatabaseDown, TooManyStreams
from pixtools.redis.hints import MOVED, Hints
from pixtools.states import JOB_ENDED
from serve.answers import JobAnswer

_MOST_STREAMS = 100  # half the places that serve_config.yaml gives to requests: the others stay free
_SILENCE_S = 15.0  # proxies cut streams that say nothing for longer


class ProgressFeed:
    """One subscription for all the streams of this process."""

    def __init__(self, store: JobStore, hints: Hints, poll_s: float) -> None:
        self._store = store
        self._hints = hints
        self._poll_s = poll_s
        self._watchers: dict[str, set[asyncio.Event]] = defaultdict(set)

    async def listen(self) -> None:
        """Wake those who watch a job that moved; runs as long as the process."""
        async for job_id in self._hints.listen(MOVED):
            for moved in self._watchers.get(job_id, ()):
                moved.set()

    def require_place(self) -> None:
        """Raise TooManyStreams if one more would leave no room for other requests."""
        if sum(map(len, self._watchers.values())) >= _MOST_STREAMS:
            raise TooManyStreams("Read the job itself from time to time, or follow it again in a while.")

    async def events(
        self,
        owner: str,
        job_id: uuid.UUID,
        last: int,
        read: Callable[[], tuple[int, JobAnswer]],
    ) -> AsyncIterator[str]:
        """Yield the job whenever its version has passed `last`, until it has ended.

        An event holds the whole job, so a reader that missed some has lost nothing: the id is the version.
        """
        moved = asyncio.Event()
        self._watchers[str(job_id)].add(moved)
        silent_s = 0.0
        try:
            while True:
                try:
                    if await run_in_threadpool(self._store.version, owner, job_id) > last:
                        last, job = await run_in_threadpool(read)
                        yield f"event: job\nid: {last}\ndata: {job.model_dump_json()}\n\n"
                        silent_s = 0.0
                        if job.state in JOB_ENDED:
                            return
                except DatabaseDown:
                    pass  # the stream waits with everybody else
                silent_s += self._poll_s if not await self._wait(moved) else 0.0
                if silent_s >= _SILENCE_S:
                    silent_s = 0.0
                    yield ": waiting\n\n"
        finally:
            self._watchers[str(job_id)].discard(moved)
            if not self._watchers[str(job_id)]:
                del self._watchers[str(job_id)]

    async def _wait(self, moved: asyncio.Event) -> bool:
        try:
            async with asyncio.timeout(self._poll_s):
                await moved.wait()
        except TimeoutError:
            return False
        moved.clear()
        return True
