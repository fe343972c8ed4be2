"""State moves of jobs, steps, dead letters and deliveries, as guarded updates.

The guard is a condition: the update changes a row only if the current state allows the move. Every guard comes from the
tables in `states.py`, so no caller can make a move that these tables forbid. A caller that moves a job or a step must
hold a lock on the row of the job.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    Interval,
    Uuid,
    bindparam,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlmodel import col

from pixtools.database.json_rows import json_rows
from pixtools.database.rows import DEAD_LETTER, STEP, group
from pixtools.database.tables import DeadLetter, Delivery, Job, Step, StepEvent, WebhookEndpoint
from pixtools.errors import PixToolsError
from pixtools.jobs.outcomes import Batch
from pixtools.jobs.records import DeadLetterRecord, StepRecord
from pixtools.outbound.targets import parse_target
from pixtools.states import (
    DEAD_LETTER_MOVES,
    DEAD_LETTER_OPEN,
    DELIVERY_MOVES,
    JOB_MOVES,
    STEP_ENDED,
    STEP_MOVES,
    STEP_WITHOUT_RESULT,
    DeadLetterState,
    DeliveryState,
    JobState,
    StepEventKind,
    StepState,
    job_state_after,
    states_before,
)
from pixtools.webhooks.events import Event

StepId = tuple[uuid.UUID, str]
"""The id of a job, and the name of one of its steps."""


@dataclass(frozen=True)
class JobAttempt:
    """The current attempt of a job whose row is locked."""

    job_id: uuid.UUID
    owner: str
    attempt: int


# Jobs


def job_may_become(state: JobState) -> ColumnElement[bool]:
    """Return the SQL condition that is true for jobs that may move to `state`."""
    return col(Job.state).in_(states_before(JOB_MOVES, state))


_batch = json_rows("batch", job_id=Uuid(), attempt=Integer(), number=Integer())
# Every transaction locks jobs in the order of their ids, so two transactions cannot deadlock. `key_share` makes this
# FOR NO KEY UPDATE, because other transactions may insert rows that refer to the job.
_current = (
    select(col(Job.id), _batch.c.number)
    .join(_batch, (col(Job.id) == _batch.c.job_id) & (col(Job.attempt) == _batch.c.attempt))
    .where(col(Job.state) == JobState.RUNNING, or_(_batch.c.number.is_(None), col(Job.written) < _batch.c.number))
    .order_by(col(Job.id))
    .with_for_update(key_share=True, of=Job)
    .cte("current")
)
_HOLD_JOBS = (
    update(Job)
    .where(col(Job.id) == _current.c.id)
    .values(
        version=Job.version + 1,
        written=func.coalesce(_current.c.number, Job.written),
        lease_until=func.now() + bindparam("lease", type_=Interval()),
    )
    .returning(col(Job.id), col(Job.attempt), col(Job.owner))
)


def hold_jobs(connection: Connection, batches: Iterable[Batch], lease: timedelta) -> dict[tuple[uuid.UUID, int], str]:
    """Lock the jobs of the batches that must be written, and renew their leases.

    Return the owner of each locked job, by job id and attempt. A batch must be written if its attempt is current and
    the batch was not written before.
    """
    rows = [{"job_id": str(batch.job_id), "attempt": batch.attempt, "number": batch.number} for batch in batches]
    held = connection.execute(_HOLD_JOBS, {"rows": rows, "lease": lease})
    return {(job_id, attempt): owner for job_id, attempt, owner in held}


def move_jobs(
    connection: Connection, job_ids: Sequence[uuid.UUID], to: JobState, *, returning: Sequence[Any] = (), **values: Any
) -> Sequence[Sequence[Any]]:
    """Move jobs and set further columns. The versions of the jobs grow, so readers see the change.

    Return a row for each job: its id, and then the columns of `returning`. Raises RuntimeError if states.py does not
    allow the move for one of the jobs. Then the transaction must not commit.
    """
    statement = (
        update(Job)
        .where(col(Job.id).in_(job_ids), job_may_become(to))
        .values(state=to, version=Job.version + 1, **values)
        .returning(col(Job.id), *returning)
    )
    rows = connection.execute(statement).all()
    refused = set(job_ids).difference(row[0] for row in rows)
    if refused:
        raise RuntimeError(f"jobs may not become {to}: {', '.join(map(str, refused))}")
    return rows


def requeue(connection: Connection, job_id: uuid.UUID, delay: timedelta, **values: Any) -> None:
    """Put a job back into the queue. Its running steps become waiting. The next attempt begins after `delay`.

    Without a delay, the job keeps its place in the queue. Otherwise it would wait for all jobs that came after it.
    """
    move_steps(connection, job_id, StepState.WAITING, only_from=StepState.RUNNING)
    if delay:
        values["available_at"] = func.now() + delay
    move_jobs(connection, [job_id], JobState.QUEUED, lease_until=None, **values)


# Steps


def move_step(
    connection: Connection, step: StepId, to: StepState, *, only_from: StepState | None = None, **values: Any,
) -> bool:  # fmt: skip
    """Move a step and set further columns. Return whether the state of the step allowed the move.

    If `only_from` is given, move the step only if this is its state. Raises ValueError if `states.py` does not allow
    a move from `only_from` to `to`.
    """
    statement = (
        update(Step)
        .where(_is(step), step_may_become(to, only_from))
        .values(state=to, **values)
        .returning(col(Step.name))
    )
    return connection.execute(statement).first() is not None


def move_steps(
    connection: Connection, job_id: uuid.UUID, to: StepState, *, only_from: StepState | None = None,
) -> None:  # fmt: skip
    """Move the steps of a job. Steps whose state does not allow the move stay. For `only_from` see `move_step`."""
    guard = step_may_become(to, only_from)
    connection.execute(update(Step).where(col(Step.job_id) == job_id, guard).values(state=to))


def retry_step(connection: Connection, step: StepId, **values: Any) -> None:
    """Record a failed try of a step that will be tried again: set `values`, and move a running step to waiting.

    A step can fail before it begins. Then the step is still waiting, and no move is needed.
    """
    if not move_step(connection, step, StepState.WAITING, only_from=StepState.RUNNING, **values):
        still_waiting = col(Step.state) == StepState.WAITING
        connection.execute(update(Step).where(_is(step), still_waiting).values(**values))


def increment(connection: Connection, step: StepId, counter: Any) -> int:
    """Add one to the column `counter` of a step and return the new value."""
    statement = update(Step).where(_is(step)).values({counter: counter + 1}).returning(counter)
    return int(connection.execute(statement).scalar_one())


def add_event(
    connection: Connection, step: StepId, attempt: int, kind: StepEventKind, error: PixToolsError | None = None,
) -> None:  # fmt: skip
    """Append an event to the history of a step."""
    job_id, name = step
    problem = error.problem() if error else None
    connection.execute(
        insert(StepEvent).values(job_id=job_id, step=name, attempt=attempt, what=kind, error=problem),
    )


def skip_readers(connection: Connection, step: StepId) -> None:
    """Skip the steps that read the result of a failed step, directly or through other steps."""
    job_id, name = step
    without_result = {name}
    for reader, inputs, _ in _step_graph(connection, job_id):
        if without_result.intersection(inputs) and move_step(connection, (job_id, reader), StepState.SKIPPED):
            without_result.add(reader)


def revive(connection: Connection, step: StepId) -> None:
    """Reset a failed step to waiting, and also the steps that were skipped only because of this failure.

    The counters of the failed step begin at zero again.
    """
    reset = {"failures": 0, "crashes": 0, "error": None, "started_at": None, "run_ms": None}
    if not move_step(connection, step, StepState.WAITING, only_from=StepState.FAILED, **reset):
        return
    job_id, _ = step
    graph = _step_graph(connection, job_id)
    states = {name: state for name, _, state in graph}
    for name, inputs, state in graph:
        if state == StepState.SKIPPED and not any(states.get(read) in STEP_WITHOUT_RESULT for read in inputs):
            move_step(connection, (job_id, name), StepState.WAITING, only_from=StepState.SKIPPED)
            states[name] = StepState.WAITING


_STEPS = (
    select(col(Step.job_id), *STEP.columns)
    .where(col(Step.job_id).in_(bindparam("job_ids", expanding=True)))
    .order_by(col(Step.job_id), col(Step.position))
)


def steps_of(connection: Connection, job_ids: Sequence[uuid.UUID]) -> Mapping[uuid.UUID, list[StepRecord]]:
    """Return the steps of each job in running order, by job id."""
    if not job_ids:
        return {}
    rows = connection.execute(_STEPS, {"job_ids": job_ids})
    return group((row[0], STEP.record(row[1:])) for row in rows)


def job_state_of(steps: Sequence[StepRecord]) -> JobState | None:
    """Return the final state of a job with these steps, or None if a step has not ended."""
    if any(step.state not in STEP_ENDED for step in steps):
        return None
    results = sum(step.artifact_id is not None for step in steps)
    return job_state_after([step.state for step in steps], results)


def step_may_become(state: StepState, only_from: StepState | None = None) -> ColumnElement[bool]:
    """Return the SQL condition that is true for steps that may move to `state`. For `only_from` see `move_step`."""
    allowed = states_before(STEP_MOVES, state)
    if only_from is None:
        return col(Step.state).in_(allowed)
    if only_from not in allowed:
        raise ValueError(f"a step may not move from {only_from} to {state}")
    return col(Step.state) == only_from


def _is(step: StepId) -> ColumnElement[bool]:
    job_id, name = step
    return (col(Step.job_id) == job_id) & (col(Step.name) == name)


def _step_graph(connection: Connection, job_id: uuid.UUID) -> Sequence[tuple[str, list[str], str]]:
    """Return the name, the inputs and the state of each step of a job, in running order."""
    query = (
        select(col(Step.name), col(Step.inputs), col(Step.state))
        .where(col(Step.job_id) == job_id)
        .order_by(col(Step.position))
    )
    return [(name, inputs, state) for name, inputs, state in connection.execute(query)]


# Dead letters


def move_letters(
    connection: Connection, to: DeadLetterState, conditions: Sequence[ColumnElement[bool]],
) -> list[DeadLetterRecord]:  # fmt: skip
    """Move the dead letters that meet all conditions and whose state allows the move. Return these dead letters."""
    may_move = col(DeadLetter.state).in_(states_before(DEAD_LETTER_MOVES, to))
    # Every transaction locks dead letters in the order of their ids, so two transactions cannot deadlock.
    locked = select(col(DeadLetter.id)).where(*conditions, may_move).order_by(col(DeadLetter.id)).with_for_update()
    ids = connection.scalars(locked).all()
    statement = (
        update(DeadLetter)
        .where(col(DeadLetter.id).in_(ids))
        .values(state=to, moved_at=func.now())
        .returning(*DEAD_LETTER.columns)
    )
    return [DEAD_LETTER.record(row) for row in connection.execute(statement)]


def discard_letters(
    connection: Connection, conditions: Sequence[ColumnElement[bool]],
) -> list[DeadLetterRecord]:  # fmt: skip
    """Discard the open dead letters that meet all conditions. Return these dead letters.

    The history of a step gets an event. A delivery moves to the state discarded.
    """
    letters = move_letters(connection, DeadLetterState.DISCARDED, conditions)
    for letter in letters:
        if letter.step is not None:
            add_event(connection, (letter.job_id, letter.step), letter.attempt, StepEventKind.DISCARDED)
    move_deliveries(
        connection,
        DeliveryState.DISCARDED,
        [col(Delivery.id).in_([letter.delivery_id for letter in letters if letter.delivery_id is not None])],
    )
    return letters


def no_open_letter() -> ColumnElement[bool]:
    """Return the SQL condition that is true for jobs without an open dead letter of a step."""
    open_letter = select(DeadLetter).where(
        col(DeadLetter.job_id) == col(Job.id),
        col(DeadLetter.state).in_(DEAD_LETTER_OPEN),
        col(DeadLetter.step).is_not(None),
    )
    return ~open_letter.exists()


# Deliveries


def move_deliveries(
    connection: Connection, to: DeliveryState, conditions: Sequence[ColumnElement[bool]], **values: Any
) -> list[uuid.UUID]:
    """Move the deliveries that meet all conditions and whose state allows the move, and set further columns.

    Return their ids.
    """
    may_move = col(Delivery.state).in_(states_before(DELIVERY_MOVES, to))
    statement = update(Delivery).where(*conditions, may_move).values(state=to, **values).returning(col(Delivery.id))
    return list(connection.scalars(statement))


def send_again(connection: Connection, delivery_ids: Sequence[uuid.UUID]) -> list[uuid.UUID]:
    """Return ended deliveries to the queue, with as many attempts as a new delivery has. Return their ids.

    They go to the present URL of their endpoint. The delivery of a disabled endpoint is held until somebody enables the
    endpoint.
    """
    again = {"failures": 0, "next_at": func.now(), "finished_at": None}
    moved = move_deliveries(connection, DeliveryState.WAITING, [col(Delivery.id).in_(delivery_ids)], **again)
    _address(connection, col(Delivery.id).in_(moved))
    hold_deliveries_of_disabled(connection, col(Delivery.id).in_(moved))
    return moved


def hold_deliveries_of_disabled(connection: Connection, *which: ColumnElement[bool]) -> None:
    """Hold the waiting deliveries that meet all conditions and whose endpoint is disabled, except tests."""
    disabled = select(col(WebhookEndpoint.id)).where(~col(WebhookEndpoint.enabled))
    conditions = [*which, col(Delivery.endpoint_id).in_(disabled), col(Delivery.event) != Event.TEST]
    move_deliveries(connection, DeliveryState.HELD, conditions)


def _address(connection: Connection, which: ColumnElement[bool]) -> None:
    """Give deliveries the present URL of their endpoint. Most deliveries have it already."""
    query = (
        select(col(WebhookEndpoint.id), col(WebhookEndpoint.url))
        .join(Delivery, col(Delivery.endpoint_id) == col(WebhookEndpoint.id))
        .where(which, col(Delivery.url) != col(WebhookEndpoint.url))
        .distinct()
    )
    for endpoint_id, url in connection.execute(query).all():
        readdress(connection, endpoint_id, url, which)


def readdress(connection: Connection, endpoint_id: uuid.UUID, url: str, *which: ColumnElement[bool]) -> None:
    """Give the deliveries of an endpoint that meet all conditions a new URL."""
    to = {"url": url, "destination": parse_target(url).destination}
    connection.execute(update(Delivery).where(col(Delivery.endpoint_id) == endpoint_id, *which).values(to))
