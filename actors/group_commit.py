"""Records the outcomes of all jobs of a dispatcher. Batches that wait at the same time share one transaction."""

from __future__ import annotations

import asyncio
from contextvars import Context

from pixtools.database.job_store import JobStore
from pixtools.jobs.outcomes import Batch
from pixtools.redis.hints import CHANGED, Hints, changed
from pixtools.states import JobState
from pixtools.waiting import until_database_answers

_Entry = tuple[Batch, "asyncio.Future[JobState]"]


class GroupCommit:
    """Writes one transaction at a time. Batches that arrive during a transaction form the next transaction."""

    def __init__(self, store: JobStore, hints: Hints) -> None:
        self._store = store
        self._hints = hints
        self._waiting: list[_Entry] = []
        self._committing: asyncio.Task[None] | None = None
        self._hint_tasks: set[asyncio.Task[None]] = set()

    async def record(self, batch: Batch) -> JobState:
        """Write a batch, and return the new state of its job. Readers of the job get a hint.

        While the database is down, the call waits. Raises LeaseLost if the attempt is not current. If the caller
        is cancelled, its batch may still be written. A batch that is tried again must have a number.
        """
        future: asyncio.Future[JobState] = asyncio.get_running_loop().create_future()
        self._waiting.append((batch, future))
        if self._committing is None:
            self._committing = asyncio.create_task(self._commit_all(), context=Context())
        return await future

    async def _commit_all(self) -> None:
        try:
            while self._waiting:
                group, self._waiting = self._waiting, []
                await self._commit(group)
        finally:
            self._committing = None

    async def _commit(self, group: list[_Entry]) -> None:
        """Write a group of batches. Each caller gets its result or its error."""
        try:
            results = await until_database_answers(lambda: self._write(group), doing="recording outcomes")
        except Exception as error:  # noqa: BLE001 (the callers raise it)
            results = [(*entry, error) for entry in group]
        for _, future, result in results:
            if future.done():  # its caller was cancelled
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
        # The next transaction does not wait for Redis.
        messages = [changed(batch.job_id, state) for batch, _, state in results if not isinstance(state, Exception)]
        hint = asyncio.create_task(self._hints.publish(CHANGED, *messages))
        self._hint_tasks.add(hint)
        hint.add_done_callback(self._hint_tasks.discard)

    async def _write(self, group: list[_Entry]) -> list[tuple[Batch, asyncio.Future[JobState], JobState | Exception]]:
        # Skip a batch whose caller was cancelled, because its job was cancelled or runs elsewhere.
        current = [(batch, future) for batch, future in group if not future.done()]
        batches = [batch for batch, _ in current]
        states = await asyncio.to_thread(self._store.record, batches) if batches else []
        return [(batch, future, state) for (batch, future), state in zip(current, states, strict=True)]
