"""The job store: the SQL for jobs that the ingress, the dispatchers and the sweeper need.

Each public method is one transaction, unless its docstring mentions further transactions. Every state move is a guarded
update (`transitions.py`). `record`, `refresh` and `renew` also check the attempt. Every method raises DatabaseDown if
the database does not answer.
"""

from __future__ import annotations

import uuid
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from sqlalchemy import Connection, Integer, bindparam, delete, func, select, tuple_, update
from sqlmodel import col

from pixtools.database.claim_query import take_next_jobs
from pixtools.database.connection import Database
from pixtools.database.endings import end_jobs, fail_permanently
from pixtools.database.job_reader import claims_of, find_response, find_view, page_of_summaries
from pixtools.database.outcome_recorder import OutcomeRecorder
from pixtools.database.result_recorder import is_plain
from pixtools.database.rows import JOB
from pixtools.database.submission_writer import insert_job, insert_response
from pixtools.database.tables import DeadLetter, Job, StoredResponse
from pixtools.database.transitions import (
    JobAttempt,
    add_event,
    discard_letters,
    hold_jobs,
    job_state_of,
    move_steps,
    requeue,
    steps_of,
)
from pixtools.errors import DatabaseDown, DispatcherLost, JobEnded, LeaseLost, NotFound
from pixtools.jobs.outcomes import Batch
from pixtools.jobs.submission import Accepted, Idempotency, IdempotencyScope, NewJob
from pixtools.jobs.views import Claim, JobStatus, JobSummary, JobView, QueueLoad, view_of
from pixtools.retries import backoff, crash_tries, jitter
from pixtools.settings import Settings
from pixtools.states import JobState, StepEventKind, StepState

_MAX_GROUP = 100  # batches in one transaction
_RESCUE_BATCH = 100  # the largest number of jobs in one rescue
# The first half of the key of an advisory lock on claims. The number is arbitrary.
_LOCK = select(func.pg_advisory_xact_lock(7_105_922, bindparam("key", type_=Integer())))
_STATUS = select(col(Job.version), col(Job.state)).where(
    col(Job.id) == bindparam("job_id"), col(Job.owner) == bindparam("owner")
)


class JobStore:
    """The jobs in one database."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._transaction = database.transaction
        self._reading = database.reading
        self._lease = settings.lease
        self._max_crashes = settings.max_crashes
        self._idempotency_ttl = settings.idempotency_ttl
        self._retention = settings.job_retention
        self._outcomes = OutcomeRecorder(settings.max_attempts, settings.max_crashes)

    # Reads

    def now(self) -> datetime:
        """Return the current time according to the clock of the database."""
        with self._reading() as connection:
            now: datetime = connection.execute(select(func.now())).scalar_one()
            return now

    def backlog(self) -> dict[str, int]:
        """Return how many jobs of all owners are queued, and how many are running."""
        unfinished = (JobState.QUEUED, JobState.RUNNING)
        query = select(col(Job.state), func.count()).where(col(Job.state).in_(unfinished)).group_by(col(Job.state))
        with self._reading() as connection:
            counts = dict(connection.execute(query).all())
        return {state.value: counts.get(state, 0) for state in unfinished}

    def queue_load(self, max_jobs: int) -> QueueLoad:
        """Return the number and the pixels of the queued jobs of all owners. Count at most `max_jobs` jobs.

        The limit bounds the cost of this query, which the ingress runs every second while requests arrive.
        """
        counted = (
            select(col(Job.pixels))
            .where(col(Job.state) == JobState.QUEUED)
            .order_by(col(Job.owner), col(Job.available_at))  # so that Postgres reads the index of the queue
            .limit(max_jobs)
            .subquery()
        )
        with self._reading() as connection:
            jobs, pixels = connection.execute(select(func.count(), func.sum(counted.c.pixels))).one()
        return QueueLoad(jobs, int(pixels or 0))

    def oldest_queued_s(self) -> float:
        """Return how many seconds ago the oldest queued job of all owners became available. 0: no job waits.

        For a job that came back at its old place, this includes its earlier attempts.
        """
        age_s = func.extract("epoch", func.clock_timestamp() - func.min(col(Job.available_at)))
        with self._reading() as connection:
            found = connection.scalar(select(age_s).where(col(Job.state) == JobState.QUEUED))
        return max(0.0, float(found or 0))

    def get(self, owner: str, job_id: uuid.UUID) -> JobView:
        """Return a job with its steps, artifacts and parts. Raises NotFound if the owner has no such job."""
        with self._reading() as connection:
            view = find_view(connection, owner, job_id)
        if view is None:
            raise _not_found(job_id)
        return view

    def status(self, owner: str, job_id: uuid.UUID) -> JobStatus:
        """Return the version and the state of a job. Raises NotFound if the owner has no such job."""
        with self._reading() as connection:
            row = connection.execute(_STATUS, {"job_id": job_id, "owner": owner}).one_or_none()
        if row is None:
            raise _not_found(job_id)
        return JobStatus(row.version, JobState(row.state))

    def list_jobs(
        self, owner: str, *, state: JobState | None, before: uuid.UUID | None, limit: int,
    ) -> list[JobSummary]:  # fmt: skip
        """Return at most `limit` jobs of an owner, newest first.

        The page begins after the job `before`. The page contains only jobs in `state`, unless `state` is None.
        """
        with self._reading() as connection:
            return page_of_summaries(connection, owner, state, before, limit)

    def stored_response(self, scope: IdempotencyScope) -> tuple[str, Accepted] | None:
        """Return the fingerprint of the first request with a key, and its response, or None if the key is free."""
        with self._reading() as connection:
            return find_response(connection, scope)

    def replay(self, idempotency: Idempotency) -> Accepted | None:
        """Return the stored response to the first request with this key, or None if the key is free.

        Raises KeyReused if the first request had different content.
        """
        stored = self.stored_response(idempotency.scope)
        if stored is None:
            return None
        fingerprint, response = stored
        idempotency.require_match(fingerprint)
        return response

    # Ingress

    def submit(self, new: NewJob) -> JobView:
        """Store a job with its steps and parts, without an idempotency key. Return the job."""
        with self._transaction() as connection:
            created_at = insert_job(connection, new, self._retention)
        return view_of(replace(new, created_at=created_at), self._retention)

    def submit_once(self, new: NewJob, idempotency: Idempotency, body: bytes) -> Accepted:
        """Store a job and the response to its request, or return the stored response to the first request with the key.

        If several requests with one idempotency key arrive at once, a unique constraint of the database accepts one of
        them. One transaction stores the job and the response. A second transaction reads the stored response, if there
        is one. Raises KeyReused if the first request had different content. Raises ValueError if `new.created_at` is
        None, because `body` must contain this time.
        """
        if new.created_at is None:
            raise ValueError("the time of creation must be known, because the response contains it")
        while True:
            with self._transaction() as connection:
                insert_job(connection, new, self._retention)
                if insert_response(connection, idempotency, new.id, body, self._idempotency_ttl):
                    return Accepted(body, new.id, replayed=False)
                connection.rollback()  # the key is taken: do not store this job
            earlier = self.replay(idempotency)
            if earlier is not None:
                return earlier
            # The response that prevented the insertion has expired meanwhile, so the key is free.

    def cancel(self, owner: str, job_id: uuid.UUID) -> JobView:
        """Cancel a job with its open steps and dead letters. Return the job. Existing results are kept.

        A job that was cancelled before stays unchanged. Raises NotFound if the owner has no such job, and JobEnded if
        the job ended in another state. A second transaction reads the job.
        """
        # `key_share` makes this FOR NO KEY UPDATE. FOR UPDATE could cause a deadlock with a transaction that discards a
        # dead letter of this job, because that transaction inserts an event that references the job.
        query = (
            select(col(Job.state)).where(col(Job.id) == job_id, col(Job.owner) == owner).with_for_update(key_share=True)
        )
        with self._transaction() as connection:
            state = connection.scalar(query)
            if state is None:
                raise _not_found(job_id)
            if state in (JobState.QUEUED, JobState.RUNNING):
                move_steps(connection, job_id, StepState.CANCELLED)
                discard_letters(connection, [col(DeadLetter.job_id) == job_id, col(DeadLetter.step).is_not(None)])
                end_jobs(connection, [job_id], JobState.CANCELLED, self._retention)
            elif state != JobState.CANCELLED:
                raise JobEnded(f"Job {job_id} is {state}; only a job that is queued or running can be cancelled.")
        return self.get(owner, job_id)

    # Dispatchers

    def claim(self, dispatcher: str, limit: int) -> list[Claim]:
        """Take up to `limit` jobs from the queue.

        The owners share the converters: an owner with fewer running jobs comes first (see `claim_query`). The jobs of
        one owner are taken in the order in which they became available. Each job gets a lease and starts its next
        attempt.
        """
        with self._transaction() as connection:
            _wait_for_claims_of(connection, dispatcher)
            return claims_of(connection, take_next_jobs(connection, dispatcher, limit, self._lease))

    def refresh(self, claim: Claim) -> Claim:
        """Return a claim with the present states of its steps, and with the artifacts that exist now.

        Raises LeaseLost if the attempt is not current.
        """
        query = select(*JOB.columns).where(
            col(Job.id) == claim.id, col(Job.attempt) == claim.attempt, col(Job.state) == JobState.RUNNING
        )
        with self._transaction() as connection:
            jobs = [JOB.record(row) for row in connection.execute(query)]
            if not jobs:
                raise LeaseLost(f"job {claim.id}, attempt {claim.attempt}")
            (refreshed,) = claims_of(connection, jobs)
            return refreshed

    def renew(self, held: Iterable[tuple[uuid.UUID, int]]) -> set[tuple[uuid.UUID, int]]:
        """Extend the leases on the jobs in `held`. Return the entries of `held` whose lease was extended.

        Each entry is the id of a job and the attempt that holds the job. All other leases are lost.
        """
        # In the order of the ids, as in `record`, so that the two cannot deadlock.
        locked = (
            select(col(Job.id))
            .where(tuple_(col(Job.id), col(Job.attempt)).in_(list(held)), col(Job.state) == JobState.RUNNING)
            .order_by(col(Job.id))
            .with_for_update(key_share=True)
            .cte("locked")
        )
        statement = (
            update(Job)
            .where(col(Job.id) == locked.c.id)
            .values(lease_until=func.now() + self._lease)
            .returning(col(Job.id), col(Job.attempt))
        )
        with self._transaction() as connection:
            return {(job_id, attempt) for job_id, attempt in connection.execute(statement)}

    def record(self, batches: Sequence[Batch]) -> list[JobState | Exception]:
        """Write batches of outcomes, many in one transaction. Return the new state of each job, or its batch's error.

        A batch gets LeaseLost if its attempt is not current. A dispatcher can send a numbered batch again if the commit
        succeeded but its confirmation was lost. If the transaction fails for another reason than an outage, each batch
        gets its own transaction, so that only the batch with the error fails. A batch with failures always gets its own
        transaction, because it takes many statements.
        """
        plain = [batch for batch in batches if is_plain(batch.outcomes)]
        results: dict[int, JobState | Exception] = {}
        for group in (*_chunks(plain), *([batch] for batch in batches if not is_plain(batch.outcomes))):
            results |= zip(map(id, group), self._record_group(group), strict=True)
        return [results[id(batch)] for batch in batches]

    def _record_group(self, batches: Sequence[Batch]) -> list[JobState | Exception]:
        try:
            return self._record_together(batches)
        except DatabaseDown:
            raise
        except Exception as error:  # noqa: BLE001 (the caller gets it as a result)
            if len(batches) == 1:
                return [error]
        return [result for batch in batches for result in self._record_group([batch])]

    def _record_together(self, batches: Sequence[Batch]) -> list[JobState | Exception]:
        with self._transaction() as connection:
            owners = hold_jobs(connection, batches, self._lease)
            written = [batch for batch in batches if (batch.job_id, batch.attempt) in owners]
            self._outcomes.apply(
                connection,
                [
                    (JobAttempt(batch.job_id, owners[batch.job_id, batch.attempt], batch.attempt), batch.outcomes)
                    for batch in written
                ],
            )
            settled = self._settle(connection, [batch.job_id for batch in written if batch.settle])
            return [
                settled.get(batch.job_id, JobState.RUNNING)
                if (batch.job_id, batch.attempt) in owners
                else _repeated_batch_or_lost_lease(connection, batch)
                for batch in batches
            ]

    def _settle(self, connection: Connection, job_ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, JobState]:
        """End each job whose steps have all ended, and return the other jobs to the queue. Return the new states."""
        settled: dict[uuid.UUID, JobState] = {}
        ended: dict[JobState, list[uuid.UUID]] = {}
        for job_id, steps in steps_of(connection, job_ids).items():
            state = job_state_of(steps)
            if state is None:
                requeue(connection, job_id, backoff(steps))
            else:
                ended.setdefault(state, []).append(job_id)
            settled[job_id] = state or JobState.QUEUED
        for state, ids in ended.items():
            end_jobs(connection, ids, state, self._retention)
        return settled

    def return_to_queue(
        self, dispatcher: str | None = None, still_running: Collection[uuid.UUID] = ()
    ) -> list[uuid.UUID]:
        """Put the running jobs of a dispatcher back into the queue, except `still_running`. Return their job ids.

        The jobs keep their places in the queue. This does not count as a crash. Without `dispatcher`, put back the
        running jobs of all dispatchers. Omit `dispatcher` only after all dispatchers have ended.
        """
        held_by = [] if dispatcher is None else [col(Job.dispatcher) == dispatcher]
        query = (
            select(col(Job.id))
            .where(col(Job.state) == JobState.RUNNING, col(Job.id).not_in(still_running), *held_by)
            .order_by(col(Job.id))
            .with_for_update()
        )
        with self._transaction() as connection:
            if dispatcher is not None:
                _wait_for_claims_of(connection, dispatcher)
            job_ids = list(connection.scalars(query))
            for job_id in job_ids:
                requeue(connection, job_id, timedelta())
        return job_ids

    # Sweeper

    def rescue(self, dispatcher: str | None = None) -> list[uuid.UUID]:
        """Put at most 100 jobs whose lease has expired back into the queue. Return the ids of these jobs.

        If `dispatcher` is given, it has died: put back the jobs of this dispatcher, even if their lease has not
        expired. If `max_crashes` dispatchers have died while they ran a job, the open steps of this job fail
        permanently, and the job ends.
        """
        lost = col(Job.lease_until) < func.now() if dispatcher is None else col(Job.dispatcher) == dispatcher
        query = (
            select(col(Job.id), col(Job.owner), col(Job.attempt), col(Job.crashes))
            .where(col(Job.state) == JobState.RUNNING, lost)
            .order_by(col(Job.lease_until))
            .limit(_RESCUE_BATCH)
            .with_for_update(skip_locked=True)
        )
        with self._transaction() as connection:
            if dispatcher is not None:
                _wait_for_claims_of(connection, dispatcher)
            rows = connection.execute(query).all()
            for job_id, owner, attempt, crashes in rows:
                self._rescue_one(connection, JobAttempt(job_id, owner, attempt), crashes + 1)
        return [row.id for row in rows]

    def _rescue_one(self, connection: Connection, job: JobAttempt, crashes: int) -> None:
        """Put a job back into the queue, or end the job if too many dispatchers died while they ran it.

        `crashes` is the number of these dispatchers.
        """
        steps = steps_of(connection, [job.job_id])[job.job_id]
        for step in steps:
            if step.state == StepState.RUNNING:
                add_event(connection, (job.job_id, step.name), job.attempt, StepEventKind.LOST)
        if crashes < self._max_crashes:
            requeue(connection, job.job_id, jitter(crash_tries(crashes)), crashes=crashes)
            return
        error = DispatcherLost(f"Dispatchers that died while they ran this job: {crashes}.")
        # The steps are in running order. So a step that reads a failed step is skipped before this loop reaches it.
        for step in steps:
            fail_permanently(connection, job, step.name, error)
        state = job_state_of(steps_of(connection, [job.job_id])[job.job_id])
        assert state is not None  # noqa: S101 (the loop has ended every step)
        end_jobs(connection, [job.job_id], state, self._retention, crashes=crashes)

    def delete_expired_responses(self) -> int:
        """Delete the stored responses that are too old to be replayed. Return how many."""
        statement = (
            delete(StoredResponse).where(col(StoredResponse.expires_at) < func.now()).returning(col(StoredResponse.key))
        )
        with self._transaction() as connection:
            return len(connection.execute(statement).all())


def _chunks(batches: Sequence[Batch]) -> Iterator[Sequence[Batch]]:
    for start in range(0, len(batches), _MAX_GROUP):
        yield batches[start : start + _MAX_GROUP]


def _wait_for_claims_of(connection: Connection, dispatcher: str) -> None:
    """Take the lock that lets only one transaction at a time claim or return jobs of this dispatcher.

    The lock ends with the transaction. A dispatcher that got no answer to a claim returns the claimed jobs to the
    queue, and so does a dispatcher that Ray has restarted. At this moment, the server may not have committed the claim
    yet. Without the lock, the return would not find the claimed jobs.
    """
    key = zlib.crc32(dispatcher.encode()) - 2**31  # crc32 is unsigned, but Postgres expects a signed number
    connection.execute(_LOCK, {"key": key})


def _not_found(job_id: uuid.UUID) -> NotFound:
    return NotFound(f"There is no job {job_id}.")


def _repeated_batch_or_lost_lease(connection: Connection, batch: Batch) -> JobState | LeaseLost:
    """Return the state of a job whose batch was written before, or LeaseLost if the batch was not written.

    A cancelled job also gets LeaseLost, because its dispatcher has to stop.
    """
    state = None
    if batch.number is not None:
        this_attempt = [col(Job.id) == batch.job_id, col(Job.attempt) == batch.attempt]
        state = connection.scalar(select(col(Job.state)).where(*this_attempt, col(Job.written) >= batch.number))
    if state is None or state == JobState.CANCELLED:
        return LeaseLost(f"job {batch.job_id}, attempt {batch.attempt}")
    return JobState(state)
