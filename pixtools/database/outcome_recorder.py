"""Records one outcome of a step: changes the step, its history, its artifact and its dead letter.

The recorder runs in the process of the dispatcher, inside the transaction of `JobStore.record`. After a failed try, a
step gets another try if the error is retryable (`errors.py`) and the settings `max_attempts` and `max_crashes` allow
another try. Otherwise the step fails permanently.
"""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import assert_never

from sqlalchemy import Connection, func, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlmodel import col
from uuid6 import uuid7

from pixtools.database.tables import Artifact, Step
from pixtools.database.transitions import (
    JobAttempt,
    StepId,
    add_event,
    fail_permanently,
    increment,
    move_step,
    retry_step,
)
from pixtools.errors import ConverterCrashed
from pixtools.jobs.outcomes import Cached, Crashed, Failed, Outcome, Started, Stored, Succeeded
from pixtools.states import StepEventKind, StepState


class OutcomeRecorder:
    """Applies outcomes inside a transaction that has locked the row of the job and checked the attempt."""

    def __init__(self, max_attempts: int, max_crashes: int) -> None:
        """A step fails permanently after `max_attempts` failed tries, or after `max_crashes` crashes."""
        self._max_attempts = max_attempts
        self._max_crashes = max_crashes

    def apply(self, connection: Connection, job: JobAttempt, outcome: Outcome) -> None:
        """Record one outcome. If the state of the step does not allow the outcome, the state stays the same.

        Raises RuntimeError for a step that succeeded without having started.
        """
        match outcome:
            case Started():
                _start(connection, job, outcome)
            case Cached():
                _take_cached(connection, job, outcome)
            case Succeeded():
                _succeed(connection, job, outcome)
            case Failed():
                self._fail(connection, job, outcome)
            case Crashed():
                self._crash(connection, job, outcome)
            case _:
                assert_never(outcome)

    def _fail(self, connection: Connection, job: JobAttempt, failed: Failed) -> None:
        step, error = (job.job_id, failed.step), failed.error
        failures = 0 if error.outage else increment(connection, step, Step.failures)
        # During an outage, many tries can fail with the same error. The history gets one event for all these tries.
        if not error.outage or _last_code(connection, step) != error.code:
            add_event(connection, step, job.attempt, StepEventKind.FAILED, error)
        if error.retryable and failures < self._max_attempts:
            retry_step(connection, step, error=error.problem(), run_ms=failed.run_ms)
        else:
            fail_permanently(connection, job, failed.step, error, failed.run_ms)

    def _crash(self, connection: Connection, job: JobAttempt, crashed: Crashed) -> None:
        step = (job.job_id, crashed.step)
        crashes = increment(connection, step, Step.crashes)
        error = ConverterCrashed(f"Converters that died while they ran this step: {crashes}.")
        add_event(connection, step, job.attempt, StepEventKind.CRASHED)
        if crashes < self._max_crashes:
            retry_step(connection, step, error=error.problem(), run_ms=None)
        else:
            fail_permanently(connection, job, crashed.step, error)


def _start(connection: Connection, job: JobAttempt, started: Started) -> None:
    first_start = func.coalesce(Step.started_at, func.now() - timedelta(seconds=started.ago_s))
    step = (job.job_id, started.step)
    move_step(connection, step, StepState.RUNNING, attempt=job.attempt, started_at=first_start)


def _take_cached(connection: Connection, job: JobAttempt, cached: Cached) -> None:
    # The artifact may have been deleted since the claim. Then the step stays in the state waiting, and the next attempt
    # runs the step.
    if cached.artifact_id is None or _lock_artifact(connection, cached.artifact_id):
        step = (job.job_id, cached.step)
        move_step(
            connection, step, StepState.CACHED, attempt=job.attempt, artifact_id=cached.artifact_id, error=None,
        )  # fmt: skip


def _succeed(connection: Connection, job: JobAttempt, succeeded: Succeeded) -> None:
    artifact_id = _store_artifact(connection, job.owner, succeeded.stored) if succeeded.stored else None
    step = (job.job_id, succeeded.step)
    if not move_step(
        connection, step, StepState.SUCCEEDED, artifact_id=artifact_id, run_ms=succeeded.run_ms, error=None,
    ):  # fmt: skip
        raise RuntimeError(f"step {succeeded.step} of job {job.job_id} succeeded without having started")


def _last_code(connection: Connection, step: StepId) -> str | None:
    """Return the code of the last error of a step, or None if the step has had no error."""
    job_id, name = step
    query = select(col(Step.error)).where(col(Step.job_id) == job_id, col(Step.name) == name)
    return (connection.scalar(query) or {}).get("code")


def _lock_artifact(connection: Connection, artifact_id: uuid.UUID) -> bool:
    """Lock an artifact, so that nothing deletes the artifact before this transaction ends.

    Return whether a step may refer to the artifact. The result is False if the artifact was deleted or its file was
    lost.
    """
    query = select(col(Artifact.id)).where(col(Artifact.id) == artifact_id, col(Artifact.lost_at).is_(None))
    return connection.scalar(query.with_for_update(read=True, key_share=True)) is not None


def _store_artifact(connection: Connection, owner: str, stored: Stored) -> uuid.UUID:
    """Insert an artifact, unless the owner has an artifact with this step key. Return the id of the artifact.

    If the file of the existing artifact was lost, the artifact gets the new file.
    """
    row = {"id": uuid7(), "owner": owner, **vars(stored)}
    same_key = [col(Artifact.owner) == owner, col(Artifact.step_key) == stored.step_key]
    insertion = upsert(Artifact).values(row).on_conflict_do_nothing(constraint="artifact_step_key")
    # Without this lock, the retention store could delete the artifact before the step refers to the artifact.
    lock = select(col(Artifact.id), col(Artifact.lost_at)).where(*same_key).with_for_update(read=True, key_share=True)
    while True:
        connection.execute(insertion)
        found = connection.execute(lock).one_or_none()
        if found is not None:
            break
        # The existing artifact was deleted between the two statements, so insert again.
    artifact_id, lost_at = found
    if lost_at is not None:
        new_file = {**vars(stored), "created_at": func.now(), "lost_at": None}
        connection.execute(update(Artifact).where(*same_key).values(new_file))
    return artifact_id
