"""How jobs, steps and dead letters move: guarded updates. Jobs and steps move where the job is locked.

The guards come from the tables in states.py, so no caller can move a record where it may not go.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, func, insert, select, tuple_, update
from sqlmodel import Session, col
from uuid6 import uuid7

from pixtools.database.tables import DeadLetter, Job, Step, StepEvent
from pixtools.errors import PixToolsError
from pixtools.states import (
    JOB_MOVES,
    LETTER_MOVES,
    LETTER_OPEN,
    STEP_ENDED,
    STEP_MOVES,
    STEP_WITHOUT_RESULT,
    Happening,
    JobState,
    LetterState,
    StepState,
    origins,
    settled,
)

StepId = tuple[uuid.UUID, str]


def job_may_become(state: JobState) -> ColumnElement[bool]:
    return col(Job.state).in_(origins(JOB_MOVES, state))


def move_job(session: Session, job_id: uuid.UUID, to: JobState, **values: Any) -> None:
    """Move a locked job, in sight of its readers."""
    statement = (
        update(Job)
        .where(col(Job.id) == job_id, job_may_become(to))
        .values(state=to, version=Job.version + 1, **values)
        .returning(col(Job.id))
    )
    if session.execute(statement).first() is None:
        raise RuntimeError(f"job {job_id} may not become {to}")


def end_job(session: Session, job_id: uuid.UUID, to: JobState, retention: timedelta, **values: Any) -> None:
    """Move a job to its end; from here on its results are kept for `retention`."""
    move_job(
        session, job_id, to,
        finished_at=func.now(), expires_at=func.now() + retention, lease_until=None, **values,
    )  # fmt: skip


def requeue(session: Session, job_id: uuid.UUID, delay: timedelta, **values: Any) -> None:
    """Return a job to the queue, and its steps that were at work to those that wait."""
    statement = update(Step).where(col(Step.job_id) == job_id, col(Step.state) == StepState.RUNNING)
    session.execute(statement.values(state=StepState.WAITING))
    move_job(session, job_id, JobState.QUEUED, available_at=func.now() + delay, lease_until=None, **values)


def move_step(session: Session, step: StepId, to: StepState, **values: Any) -> bool:
    """Move a step whose job is locked; say whether it could."""
    return _move_step(session, step, origins(STEP_MOVES, to), to, **values)


def retry_step(session: Session, step: StepId, **values: Any) -> bool:
    """Let a step that has not ended wait for another try."""
    return _move_step(session, step, [StepState.WAITING, StepState.RUNNING], StepState.WAITING, **values)


def _move_step(session: Session, step: StepId, origin: Sequence[StepState], to: StepState, **values: Any) -> bool:
    statement = (
        update(Step)
        .where(tuple_(col(Step.job_id), col(Step.name)) == step, col(Step.state).in_(origin))
        .values(state=to, **values)
        .returning(col(Step.name))
    )
    return session.execute(statement).first() is not None


def count(session: Session, step: StepId, counter: Any) -> int:
    """Add one to a counter of the step and return it."""
    statement = (
        update(Step)
        .where(tuple_(col(Step.job_id), col(Step.name)) == step)
        .values({counter: counter + 1})
        .returning(counter)
    )
    return int(session.scalars(statement).one())


def note(session: Session, step: StepId, attempt: int, what: Happening, error: PixToolsError | None = None) -> None:
    """Add to the history of a step."""
    problem = error.problem() if error else None
    row = {"job_id": step[0], "step": step[1], "attempt": attempt, "what": what, "error": problem}
    session.execute(insert(StepEvent).values(**row))


def bury(
    session: Session, owner: str, step: StepId, attempt: int, error: PixToolsError, run_ms: int | None = None,
) -> None:  # fmt: skip
    """Fail a step for good: it becomes a dead letter, and what reads it is skipped."""
    job_id, name = step
    if not move_step(session, step, StepState.FAILED, error=error.problem(), run_ms=run_ms):
        return
    letter = {"id": uuid7(), "owner": owner, "job_id": job_id, "step": name, "attempt": attempt}
    session.execute(insert(DeadLetter).values(**letter, error=error.problem()))
    note(session, step, attempt, Happening.BURIED, error)
    gone = {name}
    for reader, inputs, _ in _graph(session, job_id):
        if gone.intersection(inputs) and move_step(session, (job_id, reader), StepState.SKIPPED):
            gone.add(reader)


def unbury(session: Session, step: StepId) -> None:
    """Let a step that was given up wait again, as if new, and what was skipped for its sake alone."""
    fresh = {"failures": 0, "crashes": 0, "error": None, "started_at": None, "run_ms": None}
    if not _move_step(session, step, [StepState.FAILED], StepState.WAITING, **fresh):
        return
    job_id, _ = step
    rows = _graph(session, job_id)
    states = {name: state for name, _, state in rows}
    for name, inputs, state in rows:
        if state == StepState.SKIPPED and not any(states.get(read) in STEP_WITHOUT_RESULT for read in inputs):
            _move_step(session, (job_id, name), [StepState.SKIPPED], StepState.WAITING)
            states[name] = StepState.WAITING


def move_letters(
    session: Session, to: LetterState, wanted: Sequence[ColumnElement[bool]],
) -> Sequence[DeadLetter]:  # fmt: skip
    """Move the dead letters that are `wanted` and may become `to`; return them."""
    movable = col(DeadLetter.state).in_(origins(LETTER_MOVES, to))
    # In one order, so that two who want some of the same never wait for each other.
    locked = select(col(DeadLetter.id)).where(*wanted, movable).order_by(col(DeadLetter.id)).with_for_update()
    statement = (
        update(DeadLetter)
        .where(col(DeadLetter.id).in_(session.scalars(locked).all()))
        .values(state=to, moved_at=func.now())
        .returning(DeadLetter)
    )
    return session.scalars(statement).all()


def discard_letters(session: Session, wanted: Sequence[ColumnElement[bool]]) -> Sequence[DeadLetter]:
    """Discard the open dead letters that are `wanted`, and note it in the histories of their steps."""
    letters = move_letters(session, LetterState.DISCARDED, wanted)
    for letter in letters:
        note(session, (letter.job_id, letter.step), letter.attempt, Happening.DISCARDED)
    return letters


def no_open_letter() -> ColumnElement[bool]:
    """The job has no dead letter about which somebody may still decide."""
    open_letter = select(DeadLetter).where(
        col(DeadLetter.job_id) == col(Job.id), col(DeadLetter.state).in_(LETTER_OPEN),
    )  # fmt: skip
    return ~open_letter.exists()


def steps_of(session: Session, job_id: uuid.UUID) -> Sequence[Step]:
    return session.scalars(select(Step).where(col(Step.job_id) == job_id).order_by(col(Step.position))).all()


def end_state(steps: Sequence[Step]) -> JobState | None:
    """Return the state of a job with these steps, or None while some have not ended."""
    if any(step.state not in STEP_ENDED for step in steps):
        return None
    results = sum(step.artifact_id is not None for step in steps)
    return settled([StepState(step.state) for step in steps], results)


def _graph(session: Session, job_id: uuid.UUID) -> list[tuple[str, list[str], str]]:
    """Return name, inputs and state of each step, in running order."""
    rows = session.execute(
        select(col(Step.name), col(Step.inputs), col(Step.state))
        .where(col(Step.job_id) == job_id)
        .order_by(col(Step.position)),
    )
    return [(name, inputs, state) for name, inputs, state in rows]
