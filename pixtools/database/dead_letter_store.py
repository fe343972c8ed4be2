"""The dead-letter store: the SQL that reads, redrives, discards, counts and deletes dead letters.

Each public method is one transaction. Every method raises DatabaseDown if the database does not answer.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import ColumnElement, Connection, delete, func, select, tuple_, update
from sqlmodel import col

from pixtools.database.connection import Database
from pixtools.database.rows import DEAD_LETTER, STEP_EVENT, group
from pixtools.database.tables import DeadLetter, Delivery, Job, Step, StepEvent
from pixtools.database.transitions import (
    add_event,
    discard_letters,
    move_jobs,
    move_letters,
    revive,
    send_again,
)
from pixtools.errors import DeadLetterClosed, NotFound
from pixtools.jobs.dead_letters import DeadLetterSelection, DeadLetterView, Redriven
from pixtools.states import DEAD_LETTER_OPEN, DeadLetterState, JobState, StepEventKind


class DeadLetterStore:
    """The dead letters in one database."""

    def __init__(self, database: Database) -> None:
        self._transaction = database.transaction
        self._reading = database.reading

    def page(
        self,
        owner: str,
        selection: DeadLetterSelection,
        *,
        states: Sequence[DeadLetterState],
        before: uuid.UUID | None,
        limit: int,
    ) -> list[DeadLetterView]:
        """Return at most `limit` selected dead letters of an owner, newest first.

        The page begins after the dead letter `before`. The page contains only dead letters in one of `states`.
        """
        conditions = [*_selected(owner, selection), col(DeadLetter.state).in_(states)]
        if before is not None:
            conditions.append(col(DeadLetter.id) < before)
        query = (
            select(col(Step.op), col(Delivery.url), col(Job.source_name), *DEAD_LETTER.columns)
            .join(Job, col(Job.id) == col(DeadLetter.job_id))
            .outerjoin(Step, (col(Step.job_id) == col(Job.id)) & (col(Step.name) == col(DeadLetter.step)))
            .outerjoin(Delivery, col(Delivery.id) == col(DeadLetter.delivery_id))
            .where(*conditions)
            .order_by(col(DeadLetter.id).desc())
            .limit(limit)
        )
        with self._reading() as connection:
            rows = [(op, url, name, DEAD_LETTER.record(rest)) for op, url, name, *rest in connection.execute(query)]
            steps = [(letter.job_id, letter.step) for *_, letter in rows if letter.step is not None]
            events = connection.execute(
                select(col(StepEvent.job_id), col(StepEvent.step), *STEP_EVENT.columns)
                .where(tuple_(col(StepEvent.job_id), col(StepEvent.step)).in_(steps))
                .order_by(col(StepEvent.id)),
            ).all()
        history = group(((job_id, step), STEP_EVENT.record(rest)) for job_id, step, *rest in events)
        return [
            DeadLetterView(letter, op, url, source_name, tuple(history[letter.job_id, letter.step]))
            for op, url, source_name, letter in rows
        ]

    def request_redrive(self, owner: str, selection: DeadLetterSelection) -> list[uuid.UUID]:
        """Mark the selected waiting dead letters for a redrive, and return their ids.

        Dead letters that were marked before are not among these ids. If the selection has an `id`, the method raises
        NotFound if the owner has no such dead letter, and DeadLetterClosed if the dead letter was redriven or discarded
        before.
        """
        with self._transaction() as connection:
            letters = move_letters(connection, DeadLetterState.REDRIVING, _selected(owner, selection))
            if not letters and selection.id is not None:
                _require_open(connection, owner, selection)
            return sorted(letter.id for letter in letters)

    def discard(self, owner: str, selection: DeadLetterSelection) -> int:
        """Discard the selected open dead letters. Return their number. Raises the same errors as `request_redrive`."""
        with self._transaction() as connection:
            letters = discard_letters(connection, _selected(owner, selection))
            if not letters and selection.id is not None:
                _require_open(connection, owner, selection)
            return len(letters)

    # The dead-letter queue

    def pending_redrives(self) -> list[uuid.UUID]:
        """Return the ids of the dead letters that are marked for a redrive, the earliest request first."""
        query = (
            select(col(DeadLetter.id))
            .where(col(DeadLetter.state) == DeadLetterState.REDRIVING)
            .order_by(col(DeadLetter.moved_at), col(DeadLetter.id))
        )
        with self._reading() as connection:
            return list(connection.scalars(query))

    def redrive(self, letter_id: uuid.UUID) -> Redriven | None:
        """Redrive the dead letter `letter_id` and all other dead letters of its job that are marked for a redrive.

        Returns None if there is nothing to redrive: no dead letter of the job is marked any more, or the job was
        cancelled or has expired.
        """
        job_id = select(col(DeadLetter.job_id)).where(col(DeadLetter.id) == letter_id).scalar_subquery()
        with self._transaction() as connection:
            return _redrive(connection, col(Job.id) == job_id)

    def retry(self, owner: str, job_id: uuid.UUID) -> Redriven | None:
        """Redrive all open dead letters of the steps of a job at once.

        Returns None if the owner has no such job, or no step of the job has an open dead letter.
        """
        this_job = (col(Job.id) == job_id) & (col(Job.owner) == owner)
        with self._transaction() as connection:
            # Lock the job before its dead letters, as all transactions do. The same order prevents deadlocks.
            connection.execute(select(col(Job.id)).where(this_job).with_for_update(key_share=True))
            of_steps = [*_selected(owner, DeadLetterSelection(job=job_id)), col(DeadLetter.step).is_not(None)]
            move_letters(connection, DeadLetterState.REDRIVING, of_steps)
            return _redrive(connection, this_job)

    def count_new(self) -> Counter[str]:
        """Return the number of new dead letters for each error code.

        A dead letter is new if no earlier call has counted it.
        """
        statement = (
            update(DeadLetter).where(col(DeadLetter.noted_at).is_(None)).values(noted_at=func.now()).returning(_code())
        )
        with self._transaction() as connection:
            return Counter(connection.scalars(statement))

    def counts(self) -> dict[DeadLetterState, int]:
        """Return how many dead letters of all owners are in each state."""
        query = select(col(DeadLetter.state), func.count()).group_by(col(DeadLetter.state))
        with self._reading() as connection:
            found = dict(connection.execute(query).all())
        return {state: found.get(state, 0) for state in DeadLetterState}

    def delete_old(self, retention: timedelta) -> int:
        """Delete dead letters that are older than `retention` and not marked for a redrive. Return their number."""
        statement = (
            delete(DeadLetter)
            .where(
                col(DeadLetter.created_at) < func.now() - retention,
                col(DeadLetter.state) != DeadLetterState.REDRIVING,
            )
            .returning(col(DeadLetter.id))
        )  # fmt: skip
        with self._transaction() as connection:
            return len(connection.execute(statement).all())


def _redrive(connection: Connection, which_job: ColumnElement[bool]) -> Redriven | None:
    """Redrive the dead letters of a job that are marked for a redrive.

    If the job cannot run again, the dead letters of its steps are discarded.
    """
    # `key_share` makes this FOR NO KEY UPDATE. FOR UPDATE could cause a deadlock with a transaction that discards a
    # dead letter of this job, because that transaction inserts an event that references the job.
    query = select(col(Job.id), col(Job.state)).where(which_job).with_for_update(key_share=True)
    job = connection.execute(query).one_or_none()
    if job is None:
        return None
    job_id, state = job
    to_redrive = [col(DeadLetter.job_id) == job_id, col(DeadLetter.state) == DeadLetterState.REDRIVING]
    if state in (JobState.CANCELLED, JobState.EXPIRED):
        discard_letters(connection, [*to_redrive, col(DeadLetter.step).is_not(None)])
    letters = move_letters(connection, DeadLetterState.REDRIVEN, to_redrive)
    if not letters:
        return None
    deliveries = [letter.delivery_id for letter in letters if letter.delivery_id is not None]
    send_again(connection, deliveries)
    steps = [(letter.step, letter.attempt) for letter in letters if letter.step is not None]
    for step, attempt in steps:
        revive(connection, (job_id, step))
        add_event(connection, (job_id, step), attempt, StepEventKind.REDRIVEN)
    if steps and state in (JobState.FAILED, JobState.PARTIAL):
        move_jobs(connection, [job_id], JobState.QUEUED, available_at=func.now(), finished_at=None, crashes=0)
    else:
        # A queued job stays in the queue. A running job returns to the queue when its attempt ends, because the revived
        # steps are waiting.
        connection.execute(update(Job).where(col(Job.id) == job_id).values(version=Job.version + 1))
    return Redriven(job_id, len(steps), len(deliveries))


def _require_open(connection: Connection, owner: str, selection: DeadLetterSelection) -> None:
    """Raise NotFound or DeadLetterClosed unless the selected dead letter is open."""
    state = connection.scalar(select(col(DeadLetter.state)).where(*_selected(owner, selection)))
    if state is None:
        raise NotFound(f"There is no dead letter {selection.id}.")
    if state not in DEAD_LETTER_OPEN:
        raise DeadLetterClosed(
            f"Dead letter {selection.id} is {state}. "
            "If its step or its delivery fails permanently again, there is a new dead letter."
        )


def _code() -> ColumnElement[str]:
    code: ColumnElement[str] = col(DeadLetter.error)["code"].as_string()
    return code


def _selected(owner: str, selection: DeadLetterSelection) -> list[ColumnElement[bool]]:
    """Return the conditions that the selected dead letters of an owner meet."""
    conditions: list[ColumnElement[bool]] = [col(DeadLetter.owner) == owner]
    if selection.id is not None:
        conditions.append(col(DeadLetter.id) == selection.id)
    if selection.job is not None:
        conditions.append(col(DeadLetter.job_id) == selection.job)
    if selection.op is not None:
        same_step = (col(Step.job_id) == col(DeadLetter.job_id)) & (col(Step.name) == col(DeadLetter.step))
        conditions.append(select(Step).where(same_step, col(Step.op) == selection.op).correlate(DeadLetter).exists())
    if selection.code is not None:
        conditions.append(_code() == selection.code)
    return conditions
