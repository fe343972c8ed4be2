"""Records outcomes of steps: changes the steps, their history, their artifacts and their dead letters.

The recorder runs in the process of the dispatcher, inside the transaction of `JobStore.record`. After a failed try, a
step gets another try if the error is retryable (`errors.py`) and the settings `max_attempts` and `max_crashes` allow
another try. Otherwise the step fails permanently.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import assert_never

from sqlalchemy import Connection, select
from sqlmodel import col

from pixtools.database.endings import fail_permanently
from pixtools.database.result_recorder import is_plain, record_results
from pixtools.database.tables import Artifact, Step
from pixtools.database.transitions import (
    JobAttempt,
    StepId,
    add_event,
    increment,
    move_step,
    retry_step,
)
from pixtools.errors import ConverterCrashed
from pixtools.jobs.outcomes import Cached, Crashed, Failed, Outcome, Started, Succeeded
from pixtools.states import StepEventKind, StepState


class OutcomeRecorder:
    """Applies outcomes inside a transaction that has locked the row of the job and checked the attempt."""

    def __init__(self, max_attempts: int, max_crashes: int) -> None:
        """A step fails permanently after `max_attempts` failed tries, or after `max_crashes` crashes."""
        self._max_attempts = max_attempts
        self._max_crashes = max_crashes

    def apply(self, connection: Connection, reports: Sequence[tuple[JobAttempt, Sequence[Outcome]]]) -> None:
        """Record the outcomes of several jobs. The outcomes of one job are recorded in the given order.

        If the state of a step does not allow an outcome, the state stays the same. Raises RuntimeError for a step that
        succeeded without having started.
        """
        record_results(connection, [report for report in reports if is_plain(report[1])])
        for job, outcomes in reports:
            if not is_plain(outcomes):
                for outcome in outcomes:
                    self._apply_one(connection, job, outcome)

    def _apply_one(self, connection: Connection, job: JobAttempt, outcome: Outcome) -> None:
        match outcome:
            case Started() | Succeeded():
                record_results(connection, [(job, [outcome])])
            case Cached():
                _take_cached(connection, job, outcome)
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


def _take_cached(connection: Connection, job: JobAttempt, cached: Cached) -> None:
    # The artifact may have been deleted since the claim. Then the step stays in the state waiting, and the next attempt
    # runs the step.
    if cached.artifact_id is None or _lock_artifact(connection, cached.artifact_id):
        step = (job.job_id, cached.step)
        move_step(
            connection, step, StepState.CACHED, attempt=job.attempt, artifact_id=cached.artifact_id, error=None,
        )  # fmt: skip


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
