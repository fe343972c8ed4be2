"""Queries about jobs: views of jobs, a page of summaries, artifacts to reuse, stored responses.

Every function runs in the transaction of its connection and locks no row.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Text, bindparam, exists, func, select
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlmodel import col

from pixtools.database.json_rows import json_rows
from pixtools.database.rows import ARTIFACT, JOB, PART, STEP, group
from pixtools.database.tables import Artifact, Job, Part, Step, StoredResponse
from pixtools.jobs.records import ArtifactRecord, JobRecord, PartRecord, StepRecord
from pixtools.jobs.submission import Accepted, IdempotencyScope
from pixtools.jobs.views import Claim, JobSummary, JobView, StepSummary
from pixtools.states import STEP_ENDED, JobState, StepState

_HAS_PARTS = exists().where(col(Part.job_id) == col(Job.id))
# These statements are built once, because building a statement costs as much CPU time as executing it.
_VIEW = (
    select(_HAS_PARTS, *JOB.columns, *STEP.columns, *ARTIFACT.columns)
    .join(Step, col(Step.job_id) == col(Job.id))
    .outerjoin(Artifact, col(Artifact.id) == col(Step.artifact_id))
    .where(col(Job.id) == bindparam("job_id"), col(Job.owner) == bindparam("owner"))
    .order_by(col(Step.position))
)
_STEPS_AND_ARTIFACTS = (
    select(col(Step.job_id), *STEP.columns, *ARTIFACT.columns)
    .outerjoin(Artifact, col(Artifact.id) == col(Step.artifact_id))
    .where(col(Step.job_id).in_(bindparam("job_ids", expanding=True)))
    .order_by(col(Step.job_id), col(Step.position))
)
_PARTS = (
    select(col(Part.job_id), *PART.columns)
    .where(col(Part.job_id).in_(bindparam("job_ids", expanding=True)))
    .order_by(col(Part.name).collate("C"))
)
# One row for each job. A row for each step would take several times as long for a page of long jobs.
_STEP_SUMMARIES = (
    select(
        col(Step.job_id),
        *(
            func.array_agg(aggregate_order_by(column, col(Step.position)))
            for column in (col(Step.name), col(Step.op), col(Step.state))
        ),
    )
    .where(col(Step.job_id).in_(bindparam("job_ids", expanding=True)))
    .group_by(col(Step.job_id))
)
_STEP_STATES = {state.value: state for state in StepState}
_wanted = json_rows("wanted", owner=Text(), step_key=Text())
_REUSABLE = (
    select(col(Artifact.owner), *ARTIFACT.columns)
    .join(_wanted, (col(Artifact.owner) == _wanted.c.owner) & (col(Artifact.step_key) == _wanted.c.step_key))
    .where(col(Artifact.lost_at).is_(None))
)


def find_view(connection: Connection, owner: str, job_id: uuid.UUID) -> JobView | None:
    """Return the view of a job, with one query, or two if the job has parts.

    Return None if the owner has no job with this id.
    """
    steps_at = 1 + len(JOB)
    rows = connection.execute(_VIEW, {"job_id": job_id, "owner": owner}).all()
    if not rows:
        return None
    steps, artifacts = _steps_and_artifacts(row[steps_at:] for row in rows)
    parts = tuple(part for _, part in _parts(connection, [job_id])) if rows[0][0] else ()
    return JobView(JOB.record(rows[0][1:steps_at]), steps, artifacts, parts)


def views_of(connection: Connection, jobs: Sequence[JobRecord]) -> list[JobView]:
    """Return the views of several jobs, in the order of `jobs`, with two queries."""
    if not jobs:
        return []
    job_ids = [job.id for job in jobs]
    parts = group(_parts(connection, job_ids))
    rows = group((row[0], row[1:]) for row in connection.execute(_STEPS_AND_ARTIFACTS, {"job_ids": job_ids}))
    return [JobView(job, *_steps_and_artifacts(rows[job.id]), tuple(parts[job.id])) for job in jobs]


def page_of_summaries(
    connection: Connection, owner: str, state: JobState | None, before: uuid.UUID | None, limit: int,
) -> list[JobSummary]:  # fmt: skip
    """Return at most `limit` jobs of an owner, newest first, with two queries.

    The page begins after the job `before`. The page contains only jobs in `state`, unless `state` is None.
    """
    conditions: list[ColumnElement[bool]] = [col(Job.owner) == owner]
    if state is not None:
        conditions.append(col(Job.state) == state)
    if before is not None:
        conditions.append(col(Job.id) < before)
    page = select(*JOB.columns).where(*conditions).order_by(col(Job.id).desc()).limit(limit)
    jobs = [JOB.record(row) for row in connection.execute(page)]
    if not jobs:
        return []
    rows = connection.execute(_STEP_SUMMARIES, {"job_ids": [job.id for job in jobs]})
    steps = {
        row[0]: tuple(StepSummary(name, op, _STEP_STATES[state]) for name, op, state in zip(*row[1:], strict=True))
        for row in rows
    }
    return [JobSummary(job, steps.get(job.id, ())) for job in jobs]


def claims_of(connection: Connection, jobs: Sequence[JobRecord]) -> list[Claim]:
    """Return each claimed job with everything that the dispatcher needs to run it, with at most three queries."""
    views = views_of(connection, jobs)
    wanted = {(view.job.owner, step.key) for view in views for step in view.steps if step.state not in STEP_ENDED}
    if not wanted:
        return [Claim(view, {}) for view in views]
    rows = [{"owner": owner, "step_key": step_key} for owner, step_key in wanted]
    artifacts = {}
    for owner, *columns in connection.execute(_REUSABLE, {"rows": rows}):
        artifact = ARTIFACT.record(columns)
        artifacts[owner, artifact.step_key] = artifact
    return [Claim(view, _reusable(view, artifacts)) for view in views]


def find_response(connection: Connection, scope: IdempotencyScope) -> tuple[str, Accepted] | None:
    """Return the fingerprint of the first request with an idempotency key, and the response to this request.

    Returns None if the key is free.
    """
    query = select(col(StoredResponse.fingerprint), col(StoredResponse.body), col(StoredResponse.job_id)).where(
        col(StoredResponse.owner) == scope.owner,
        col(StoredResponse.route) == scope.route,
        col(StoredResponse.key) == scope.key,
        col(StoredResponse.expires_at) > func.now(),
    )
    row = connection.execute(query).one_or_none()
    return (row.fingerprint, Accepted(row.body, row.job_id, replayed=True)) if row else None


def _steps_and_artifacts(
    rows: Iterable[Sequence[Any]],
) -> tuple[tuple[StepRecord, ...], dict[str, ArtifactRecord]]:
    """Return the steps, and the artifacts by step name. A row has the columns of a step and then of its artifact."""
    step_width = len(STEP)
    steps, artifacts = [], {}
    for row in rows:
        step = STEP.record(row[:step_width])
        steps.append(step)
        if step.artifact_id is not None:
            artifacts[step.name] = ARTIFACT.record(row[step_width:])
    return tuple(steps), artifacts


def _parts(connection: Connection, job_ids: Sequence[uuid.UUID]) -> list[tuple[uuid.UUID, PartRecord]]:
    """Return the parts of jobs, each with the id of its job, sorted by the name of the part."""
    return [(row[0], PART.record(row[1:])) for row in connection.execute(_PARTS, {"job_ids": job_ids})]


def _reusable(
    view: JobView, artifacts: dict[tuple[str, str], ArtifactRecord],
) -> dict[str, ArtifactRecord]:  # fmt: skip
    """Return the artifacts that the unfinished steps of a job can reuse, by step key.

    An artifact can be reused only if it belongs to the owner of the job.
    """
    keys = [step.key for step in view.steps if step.state not in STEP_ENDED]
    return {key: artifacts[view.job.owner, key] for key in keys if (view.job.owner, key) in artifacts}
