"""Records successful steps of many jobs. The number of statements does not grow with the number of steps.

Most batches report only that steps began and succeeded. `outcome_recorder` records all other batches, one outcome after
the other.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Connection,
    Float,
    Integer,
    Text,
    Uuid,
    case,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlmodel import col
from uuid6 import uuid7

from pixtools.database.json_rows import json_rows
from pixtools.database.tables import Artifact, Step
from pixtools.database.transitions import JobAttempt, StepId, step_may_become
from pixtools.jobs.outcomes import Outcome, Started, Stored, Succeeded
from pixtools.states import StepState

ArtifactKey = tuple[str, str]
"""The owner of an artifact, and its step key."""


_new = json_rows(
    "new",
    id=Uuid(),
    owner=Text(),
    step_key=Text(),
    blob_key=Text(),
    media_type=Text(),
    bytes=BigInteger(),
    sha256=Text(),
    width=Integer(),
    height=Integer(),
    result=JSONB(none_as_null=True),
)
# Every transaction inserts and locks artifacts in the same order, so two transactions cannot deadlock.
_INSERT_ARTIFACTS = (
    upsert(Artifact)
    .from_select([key.name for key in _new.c], select(*_new.c).order_by(_new.c.owner, _new.c.step_key))
    .on_conflict_do_nothing(constraint="artifact_step_key")
)

_wanted = json_rows("wanted", owner=Text(), step_key=Text())
# The lock prevents that the retention store deletes an artifact before the step refers to it.
_LOCK_ARTIFACTS = (
    select(col(Artifact.owner), col(Artifact.step_key), col(Artifact.id), col(Artifact.lost_at))
    .join(_wanted, (col(Artifact.owner) == _wanted.c.owner) & (col(Artifact.step_key) == _wanted.c.step_key))
    .order_by(col(Artifact.owner), col(Artifact.step_key))
    .with_for_update(read=True, key_share=True, of=Artifact)
)

_step = json_rows(
    "reported",
    job_id=Uuid(),
    name=Text(),
    attempt=Integer(),
    began=Boolean(),
    ago_s=Float(),
    succeeded=Boolean(),
    artifact_id=Uuid(),
    run_ms=Integer(),
)
# If a step began and succeeded, one update makes both moves.
_MOVE_STEPS = (
    update(Step)
    .where(
        col(Step.job_id) == _step.c.job_id,
        col(Step.name) == _step.c.name,
        or_(
            _step.c.began & step_may_become(StepState.RUNNING),
            _step.c.succeeded & step_may_become(StepState.SUCCEEDED),
        ),
    )
    .values(
        state=case((_step.c.succeeded, StepState.SUCCEEDED), else_=StepState.RUNNING),
        attempt=case((_step.c.began, _step.c.attempt), else_=col(Step.attempt)),
        started_at=func.coalesce(
            Step.started_at, case((_step.c.began, func.now() - func.make_interval(0, 0, 0, 0, 0, 0, _step.c.ago_s)))
        ),
        artifact_id=func.coalesce(_step.c.artifact_id, Step.artifact_id),
        run_ms=func.coalesce(_step.c.run_ms, Step.run_ms),
        error=case((_step.c.succeeded, None), else_=col(Step.error)),
    )
    .returning(col(Step.job_id), col(Step.name))
)


def is_plain(outcomes: Sequence[Outcome]) -> bool:
    """Return whether `record_results` can record these outcomes of one attempt.

    This is the case if the steps only began or succeeded, and nothing is reported about a step after its success.
    """
    succeeded: set[str] = set()
    for outcome in outcomes:
        if not isinstance(outcome, Started | Succeeded) or outcome.step in succeeded:
            return False
        if isinstance(outcome, Succeeded):
            succeeded.add(outcome.step)
    return True


def record_results(connection: Connection, reports: Iterable[tuple[JobAttempt, Sequence[Outcome]]]) -> None:
    """Record outcomes that `is_plain` accepts. The caller has locked the jobs and checked their attempts before.

    Raises RuntimeError for a step that succeeded without having started.
    """
    rows: dict[StepId, dict[str, Any]] = {}
    stored: dict[StepId, tuple[ArtifactKey, Stored]] = {}
    for job, outcomes in reports:
        for outcome in outcomes:
            step = (job.job_id, outcome.step)
            row = rows.setdefault(step, _row(job, outcome.step))
            match outcome:
                case Started():
                    row["began"], row["ago_s"] = True, max(row["ago_s"], outcome.ago_s)
                case Succeeded():
                    row["succeeded"], row["run_ms"] = True, outcome.run_ms
                    # A converter that gives one answer reports the start of its later steps at the end.
                    row["ago_s"] = max(row["ago_s"], outcome.run_ms / 1000)
                    if outcome.stored is not None:
                        stored[step] = ((job.owner, outcome.stored.step_key), outcome.stored)
    if not rows:
        return
    artifact_ids = _store_artifacts(connection, dict(stored.values()))
    for step, (key, _) in stored.items():
        rows[step]["artifact_id"] = str(artifact_ids[key])
    moved = {tuple(row) for row in connection.execute(_MOVE_STEPS, {"rows": list(rows.values())})}
    for (job_id, name), row in rows.items():
        if row["succeeded"] and (job_id, name) not in moved:
            raise RuntimeError(f"step {name} of job {job_id} succeeded without having started")


def _row(job: JobAttempt, step: str) -> dict[str, Any]:
    return {
        "job_id": str(job.job_id),
        "name": step,
        "attempt": job.attempt,
        "began": False,
        "ago_s": 0.0,
        "succeeded": False,
        "artifact_id": None,
        "run_ms": None,
    }


def _store_artifacts(connection: Connection, stored: dict[ArtifactKey, Stored]) -> dict[ArtifactKey, uuid.UUID]:
    """Insert the artifacts that do not exist yet. Return the ids of all artifacts in `stored`.

    If the file of an existing artifact was lost, the artifact gets the new file.
    """
    ids: dict[ArtifactKey, uuid.UUID] = {}
    # An existing artifact can be deleted between the two statements. Then it is inserted in another round.
    while missing := [key for key in stored if key not in ids]:
        rows = [{"id": str(uuid7()), "owner": key[0], **vars(stored[key])} for key in missing]
        connection.execute(_INSERT_ARTIFACTS, {"rows": rows})
        wanted = [{"owner": owner, "step_key": step_key} for owner, step_key in missing]
        for owner, step_key, artifact_id, lost_at in connection.execute(_LOCK_ARTIFACTS, {"rows": wanted}):
            ids[owner, step_key] = artifact_id
            if lost_at is not None:
                new_file = {**vars(stored[owner, step_key]), "created_at": func.now(), "lost_at": None}
                connection.execute(update(Artifact).where(col(Artifact.id) == artifact_id).values(new_file))
    return ids
