"""Ends jobs and steps. The transaction that ends a job also inserts the deliveries of its webhooks."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, func, insert
from uuid6 import uuid7

from pixtools.database import outbox
from pixtools.database.tables import DeadLetter
from pixtools.database.transitions import JobAttempt, add_event, move_jobs, move_step, skip_readers
from pixtools.errors import PixToolsError
from pixtools.states import JobState, StepEventKind, StepState


def end_jobs(
    connection: Connection, job_ids: Sequence[uuid.UUID], to: JobState, retention: timedelta, **values: Any
) -> None:
    """Move jobs to an ended state, and insert the deliveries of their webhooks. Results are kept for `retention`."""
    ended = move_jobs(
        connection, job_ids, to, returning=outbox.RECEIVERS_OF_JOB,
        finished_at=func.now(), expires_at=func.now() + retention, lease_until=None, **values,
    )  # fmt: skip
    outbox.announce_ends(connection, to, ended)


def fail_permanently(
    connection: Connection, job: JobAttempt, name: str, error: PixToolsError, run_ms: int | None = None,
) -> None:  # fmt: skip
    """End a step without further tries: give the step a dead letter, and skip the steps that read its result.

    Does nothing if the step has ended already.
    """
    step, problem, letter_id = (job.job_id, name), error.problem(), uuid7()
    if not move_step(connection, step, StepState.FAILED, error=problem, run_ms=run_ms):
        return
    letter = {"id": letter_id, "owner": job.owner, "job_id": job.job_id, "step": name, "attempt": job.attempt}
    connection.execute(insert(DeadLetter).values(**letter, error=problem))
    add_event(connection, step, job.attempt, StepEventKind.FAILED_PERMANENTLY, error)
    skip_readers(connection, step)
    outbox.announce_dead_letter(connection, job.owner, letter_id, job.job_id, name, problem)
