"""Dead letters in the HTTP API. They are read from the database. The dead-letter queue redrives and discards them."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Literal, Protocol, Self

from pydantic import BaseModel, Field, StringConstraints, field_validator, model_validator

from pixtools.database.dead_letter_store import DeadLetterStore
from pixtools.jobs.dead_letters import DeadLetterSelection, DeadLetterView
from pixtools.operations import OPERATIONS
from pixtools.states import DEAD_LETTER_OPEN, DeadLetterState, StepEventKind
from serve.answers import Time
from serve.form import Form
from serve.problems import Problem

Name = Annotated[str, StringConstraints(max_length=64, pattern="^[A-Za-z0-9_-]*$")]
"""The name of an operation, or the code of an error."""


class StepEventAnswer(BaseModel):
    """One event in the history of a step. `error` is set if `what` is `failed` or `buried` (failed permanently)."""

    at: Time
    attempt: int
    what: StepEventKind
    error: Problem | None


class DeadLetterAnswer(BaseModel):
    """A step or a delivery that failed permanently.

    `history` begins with the first failed try of the step. For a delivery, `step` and `op` are null, and the history is
    that of the delivery.
    """

    id: uuid.UUID
    kind: Literal["step", "delivery"]
    state: DeadLetterState
    job: uuid.UUID
    step: str | None
    op: str | None
    delivery: uuid.UUID | None
    url: str | None
    source_name: str
    attempt: int
    error: Problem
    created_at: Time
    expires_at: Time
    history: list[StepEventAnswer]


class DeadLetterList(BaseModel):
    """Dead letters, newest first. `next` is the cursor of the next page, or null on the last page."""

    dead_letters: list[DeadLetterAnswer]
    next: uuid.UUID | None


class SelectionForm(Form):
    """Selects the open dead letters that match every given field. `all` selects every open dead letter."""

    job: uuid.UUID | None = Field(None, description="only dead letters of this job")
    op: Name | None = Field(None, description="only dead letters whose step has this operation")
    code: Name | None = Field(None, description="only dead letters with this error code, such as `corrupt_image`")
    all: Literal[True] | None = Field(None, description="every open dead letter")

    @field_validator("op")
    @classmethod
    def _is_known(cls, op: str | None) -> str | None:
        if op is not None and op not in OPERATIONS:
            raise ValueError(f"is not an operation; use one of {', '.join(OPERATIONS)}")
        return op

    @model_validator(mode="after")
    def _selects(self) -> Self:
        # Without this check, a script with an empty variable would redrive or discard all dead letters.
        narrowed = any(value is not None for value in (self.job, self.op, self.code))
        if narrowed == bool(self.all):
            raise ValueError("select dead letters by one or more of job, op and code, or by all: true, but not by both")
        return self

    def selection(self) -> DeadLetterSelection:
        """Return the selection for the store and the queue."""
        return DeadLetterSelection(job=self.job, op=self.op, code=self.code)


class NumberAnswer(BaseModel):
    """The number of dead letters that the redrive or the discard applies to."""

    dead_letters: int


class Queue(Protocol):
    """The calls to the dead-letter queue. Each call returns how many dead letters it changes, or raises QueueDown."""

    async def redrive(self, owner: str, selection: DeadLetterSelection) -> int:
        """Request that the selected dead letters are redriven later, at a limited rate."""

    async def discard(self, owner: str, selection: DeadLetterSelection) -> int:
        """Discard the selected dead letters."""

    async def retry(self, owner: str, job_id: uuid.UUID) -> int:
        """Redrive all open dead letters of a job immediately."""


@dataclass(frozen=True)
class DeadLetters:
    """Reads dead letters, and passes redrives and discards to the queue. A dead letter is kept for `retention`."""

    store: DeadLetterStore
    queue: Queue
    retention: timedelta

    def page(
        self,
        owner: str,
        selection: DeadLetterSelection,
        *,
        state: DeadLetterState | None,
        before: uuid.UUID | None,
        limit: int,
    ) -> DeadLetterList:
        """Return a page of the owner's dead letters. If `state` is None, return only open dead letters."""
        states = sorted(DEAD_LETTER_OPEN) if state is None else [state]
        views = self.store.page(owner, selection, states=states, before=before, limit=limit + 1)
        following = views[limit - 1].letter.id if len(views) > limit else None
        return DeadLetterList(dead_letters=[_answer(view, self.retention) for view in views[:limit]], next=following)

    async def redrive(self, owner: str, selection: DeadLetterSelection) -> NumberAnswer:
        """Request a redrive of the selected dead letters. Raises QueueDown.

        If the selection is one `id`, also raises NotFound and DeadLetterClosed.
        """
        return NumberAnswer(dead_letters=await self.queue.redrive(owner, selection))

    async def discard(self, owner: str, selection: DeadLetterSelection) -> NumberAnswer:
        """Discard the selected dead letters. Raises the errors of `redrive`."""
        return NumberAnswer(dead_letters=await self.queue.discard(owner, selection))

    async def retry(self, owner: str, job_id: uuid.UUID) -> int:
        """Redrive all open dead letters of a job immediately, and return their number. Raises QueueDown."""
        return await self.queue.retry(owner, job_id)


def _answer(view: DeadLetterView, retention: timedelta) -> DeadLetterAnswer:
    letter = view.letter
    return DeadLetterAnswer(
        id=letter.id,
        kind="delivery" if letter.step is None else "step",
        state=letter.state,
        job=letter.job_id,
        step=letter.step,
        op=view.op,
        delivery=letter.delivery_id,
        url=view.url,
        source_name=view.source_name,
        attempt=letter.attempt,
        error=Problem.model_validate(letter.error),
        created_at=letter.created_at,
        expires_at=letter.created_at + retention,
        history=[
            StepEventAnswer(
                at=event.created_at,
                attempt=event.attempt,
                what=event.what,
                error=Problem.model_validate(event.error) if event.error else None,
            )
            for event in view.history
        ],
    )
