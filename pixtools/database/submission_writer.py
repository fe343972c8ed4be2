"""Inserts an accepted job with its steps and parts, and the response to the request that created the job."""

from __future__ import annotations

import uuid
from dataclasses import asdict
from datetime import datetime, timedelta

from sqlalchemy import Connection, DateTime, Interval, bindparam, func, insert
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlmodel import col

from pixtools.database.tables import Job, Part, Step, StoredResponse
from pixtools.jobs.submission import Idempotency, NewJob
from pixtools.states import JobState, StepState

_CREATED_AT = func.coalesce(bindparam("known_time", type_=DateTime(timezone=True)), func.now())
# The statement is built once, because building it costs as much CPU time as executing it. Each execution gives the
# other columns as parameters.
_INSERT_JOB = (
    insert(Job)
    .values(
        state=JobState.QUEUED,
        created_at=_CREATED_AT,
        expires_at=_CREATED_AT + bindparam("retention", type_=Interval()),
    )
    .returning(col(Job.created_at))
)
_INSERT_STEP, _INSERT_PART = insert(Step), insert(Part)


def insert_job(connection: Connection, new: NewJob, retention: timedelta) -> datetime:
    """Insert a queued job with its waiting steps and its parts. Return the time of its creation."""
    job = {name: value for name, value in vars(new).items() if name not in ("steps", "parts", "created_at")}
    values = {**job, "known_time": new.created_at, "retention": retention}
    stored_at: datetime = connection.execute(_INSERT_JOB, values).scalar_one()
    steps = [
        {**vars(step), "job_id": new.id, "position": position, "inputs": list(step.inputs), "state": StepState.WAITING}
        for position, step in enumerate(new.steps)
    ]
    connection.execute(_INSERT_STEP, steps)
    if new.parts:
        connection.execute(_INSERT_PART, [{**asdict(part), "job_id": new.id} for part in new.parts])
    return stored_at


def insert_response(
    connection: Connection, idempotency: Idempotency, job_id: uuid.UUID, body: bytes, ttl: timedelta
) -> bool:
    """Store the response to a request. The response expires after `ttl`.

    Returns False if there is already a response for the idempotency key of the request. An expired response is
    replaced. If another transaction is storing a response for this key, this call waits until the other transaction
    has ended.
    """
    row = {
        "fingerprint": idempotency.fingerprint,
        "job_id": job_id,
        "body": body,
        "created_at": func.now(),
        "expires_at": func.now() + ttl,
    }
    statement = (
        upsert(StoredResponse)
        .values(**vars(idempotency.scope), **row)
        .on_conflict_do_update(
            index_elements=["owner", "route", "key"],
            set_=row,
            where=col(StoredResponse.expires_at) <= func.now(),
        )
        .returning(col(StoredResponse.key))
    )
    return connection.execute(statement).first() is not None
