"""All SQL of dead letters: what was given up, and what somebody decides about it.

Each public method is one transaction. A database that does not answer raises DatabaseDown.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import ColumnElement, delete, func, select, tuple_, update
from sqlmodel import Session, col

from pixtools.database.connection import Database
from pixtools.database.tables import DeadLetter, Job, Step, StepEvent
from pixtools.database.transitions import discard_letters, move_job, move_letters, note, unbury
from pixtools.errors import LetterClosed, NotFound
from pixtools.states import LETTER_OPEN, Happening, JobState, LetterState


@dataclass(frozen=True)
class Selection:
    """Which dead letters are meant: those that meet all that is given; without anything, all of an owner's."""

    id: uuid.UUID | None = None
    job: uuid.UUID | None = None
    op: str | None = None
    code: str | None = None  # of the error

    def clauses(self, owner: str) -> list[ColumnElement[bool]]:
        wanted: list[ColumnElement[bool]] = [col(DeadLetter.owner) == owner]
        if self.id is not None:
            wanted.append(col(DeadLetter.id) == self.id)
        if self.job is not None:
            wanted.append(col(DeadLetter.job_id) == self.job)
        if self.op is not None:
            same = (col(Step.job_id) == col(DeadLetter.job_id)) & (col(Step.name) == col(DeadLetter.step))
            wanted.append(select(Step).where(same, col(Step.op) == self.op).correlate(DeadLetter).exists())
        if self.code is not None:
            wanted.append(_code() == self.code)
        return wanted


@dataclass(frozen=True)
class LetterView:
    """A dead letter as its readers see it, with the history of its step, oldest first."""

    letter: DeadLetter
    op: str
    source_name: str
    history: tuple[StepEvent, ...]


@dataclass(frozen=True)
class Redriven:
    job_id: uuid.UUID
    letters: int


class DeadLetterStore:
    def __init__(self, database: Database) -> None:
        self._transaction = database.transaction

    def page(
        self,
        owner: str,
        selection: Selection,
        *,
        states: Sequence[LetterState],
        before: uuid.UUID | None,
        limit: int,
    ) -> list[LetterView]:
        """Return the owner's dead letters, newest first, from the one that follows `before`."""
        wanted = [*selection.clauses(owner), col(DeadLetter.state).in_(states)]
        if before is not None:
            wanted.append(col(DeadLetter.id) < before)
        with self._transaction() as session:
            rows = session.execute(
                select(DeadLetter, col(Step.op), col(Job.source_name))
                .join(Job, col(Job.id) == col(DeadLetter.job_id))
                .join(Step, (col(Step.job_id) == col(Job.id)) & (col(Step.name) == col(DeadLetter.step)))
                .where(*wanted)
                .order_by(col(DeadLetter.id).desc())
                .limit(limit),
            ).all()
            steps = [(letter.job_id, letter.step) for letter, _, _ in rows]
            events = session.scalars(
                select(StepEvent)
                .where(tuple_(col(StepEvent.job_id), col(StepEvent.step)).in_(steps))
                .order_by(col(StepEvent.id)),
            ).all()
        return [
            LetterView(letter, op, name, tuple(e for e in events if (e.job_id, e.step) == (letter.job_id, letter.step)))
            for letter, op, name in rows
        ]

    def ask_redrive(self, owner: str, selection: Selection) -> list[uuid.UUID]:
        """Note that the waiting letters selected are to be redriven, and return them.

        A letter that was asked for before is among them no more. Raises NotFound or LetterClosed for a selection
        by `id` that cannot be redriven.
        """
        with self._transaction() as session:
            letters = move_letters(session, LetterState.REDRIVING, selection.clauses(owner))
            if not letters and selection.id is not None:
                self._require_open(session, owner, selection)
            return sorted(letter.id for letter in letters)

    def discard(self, owner: str, selection: Selection) -> int:
        """Discard the open letters selected; return how many. Raises as `ask_redrive` does."""
        with self._transaction() as session:
            letters = discard_letters(session, selection.clauses(owner))
            if not letters and selection.id is not None:
                self._require_open(session, owner, selection)
            return len(letters)

    def _require_open(self, session: Session, owner: str, selection: Selection) -> None:
        state = session.scalar(select(col(DeadLetter.state)).where(*selection.clauses(owner)))
        if state is None:
            raise NotFound(f"There is no dead letter {selection.id}.")
        if state not in LETTER_OPEN:
            raise LetterClosed(
                f"Dead letter {selection.id} is {state}. Should its step be given up again, that is a new one."
            )

    # The dead-letter queue

    def redriving(self) -> list[uuid.UUID]:
        """Return the letters whose redrive was asked for, the longest waiting first."""
        query = select(col(DeadLetter.id)).where(col(DeadLetter.state) == LetterState.REDRIVING)
        with self._transaction() as session:
            return list(session.scalars(query.order_by(col(DeadLetter.moved_at), col(DeadLetter.id))))

    def redrive(self, letter_id: uuid.UUID) -> Redriven | None:
        """Put back to work what a letter that is to be redriven stands for, with all such letters of its job.

        None where there is nothing to do: it was done before, or its job was cancelled or has expired.
        """
        job_id = select(col(DeadLetter.job_id)).where(col(DeadLetter.id) == letter_id).scalar_subquery()
        with self._transaction() as session:
            return self._redrive(session, col(Job.id) == job_id)

    def retry(self, owner: str, job_id: uuid.UUID) -> Redriven | None:
        """Redrive all open letters of a job at once; None where there are none, or where nobody may."""
        this = (col(Job.id) == job_id) & (col(Job.owner) == owner)
        with self._transaction() as session:
            session.execute(select(col(Job.id)).where(this).with_for_update(key_share=True))  # before its letters
            move_letters(session, LetterState.REDRIVING, Selection(job=job_id).clauses(owner))
            return self._redrive(session, this)

    def _redrive(self, session: Session, which: ColumnElement[bool]) -> Redriven | None:
        # Not its key: histories refer to it, and whoever discards a letter adds to one.
        job = session.scalars(select(Job).where(which).with_for_update(key_share=True)).one_or_none()
        if job is None:
            return None
        theirs = [col(DeadLetter.job_id) == job.id, col(DeadLetter.state) == LetterState.REDRIVING]
        if job.state in (JobState.CANCELLED, JobState.EXPIRED):
            discard_letters(session, theirs)
            return None
        letters = move_letters(session, LetterState.REDRIVEN, theirs)
        for letter in letters:
            unbury(session, (job.id, letter.step))
            note(session, (job.id, letter.step), letter.attempt, Happening.REDRIVEN)
        if not letters:
            return None
        if job.state in (JobState.FAILED, JobState.PARTIAL):
            move_job(session, job.id, JobState.QUEUED, available_at=func.now(), finished_at=None, crashes=0)
        else:  # it is under way, and settles into the queue when it sees the steps wait
            session.execute(update(Job).where(col(Job.id) == job.id).values(version=Job.version + 1))
        return Redriven(job.id, len(letters))

    def note_new(self) -> Counter[str]:
        """Take note of the letters that came since the last call; return how many by the code of their error."""
        statement = (
            update(DeadLetter).where(col(DeadLetter.noted_at).is_(None)).values(noted_at=func.now()).returning(_code())
        )
        with self._transaction() as session:
            return Counter(session.scalars(statement))

    def counts(self) -> dict[LetterState, int]:
        """Return how many letters there are in each state, over all owners."""
        query = select(col(DeadLetter.state), func.count()).group_by(col(DeadLetter.state))
        with self._transaction() as session:
            found = dict(session.execute(query).all())
        return {state: found.get(state, 0) for state in LetterState}

    def forget(self, retention: timedelta) -> int:
        """Delete the letters that are older than `retention`, save those to be redriven; return how many."""
        statement = (
            delete(DeadLetter)
            .where(
                col(DeadLetter.created_at) < func.now() - retention,
                col(DeadLetter.state) != LetterState.REDRIVING,
            )
            .returning(col(DeadLetter.id))
        )  # fmt: skip
        with self._transaction() as session:
            return len(session.execute(statement).all())


def _code() -> ColumnElement[str]:
    code: ColumnElement[str] = col(DeadLetter.error)["code"].as_string()
    return code
