"""Dead letters over HTTP: reads go to the store, decisions to the queue."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from actors import fleet
from pixtools.database.dead_letter_store import DeadLetterStore, LetterView, Selection
from pixtools.operations import OPERATIONS
from pixtools.settings import Settings
from pixtools.states import LETTER_OPEN, Happening, LetterState
from serve.answers import Time
from serve.problems import Problem


class HappeningAnswer(BaseModel):
    """What befell the step; its error where a try failed or the step was given up."""

    at: Time
    attempt: int
    what: Happening
    error: Problem | None


class LetterAnswer(BaseModel):
    """A step out of attempts; `history` begins with the first try that went wrong."""

    id: uuid.UUID
    state: LetterState
    job: uuid.UUID
    step: str
    op: str
    source_name: str
    attempt: int
    error: Problem
    created_at: Time
    expires_at: Time
    history: list[HappeningAnswer]


class LetterList(BaseModel):
    """Dead letters, newest first; `next` is the cursor of the page that follows, if there is one."""

    dead_letters: list[LetterAnswer]
    next: uuid.UUID | None


class SelectionForm(BaseModel):
    """Which dead letters are meant: those that meet all that is given, or `all` that are open."""

    model_config = ConfigDict(extra="forbid")

    job: uuid.UUID | None = Field(None, description="of this job")
    op: str | None = Field(None, description="whose step has this operation")
    code: str | None = Field(None, description="with this error, such as `corrupt_image`")
    all: Literal[True] | None = Field(None, description="every one, whatever it is")

    @field_validator("op")
    @classmethod
    def _is_known(cls, op: str | None) -> str | None:
        if op is not None and op not in OPERATIONS:
            raise ValueError(f"is no operation; use one of {', '.join(OPERATIONS)}")
        return op

    @model_validator(mode="after")
    def _selects(self) -> Self:
        # A script whose variable is empty must not decide about everything.
        narrowed = any(value is not None for value in (self.job, self.op, self.code))
        if narrowed == bool(self.all):
            raise ValueError("say which are meant: by some of job, op and code, or by all: true, not by both")
        return self

    def selection(self) -> Selection:
        return Selection(job=self.job, op=self.op, code=self.code)


class NumberAnswer(BaseModel):
    """How many dead letters it was."""

    dead_letters: int


@dataclass(frozen=True)
class DeadLetters:
    settings: Settings
    store: DeadLetterStore

    def page(
        self,
        owner: str,
        selection: Selection,
        *,
        state: LetterState | None,
        before: uuid.UUID | None,
        limit: int,
    ) -> LetterList:
        states = sorted(LETTER_OPEN) if state is None else [state]
        views = self.store.page(owner, selection, states=states, before=before, limit=limit + 1)
        more = views[limit - 1].letter.id if len(views) > limit else None
        kept = self.settings.dead_letter_retention
        return LetterList(dead_letters=[_answer(view, kept) for view in views[:limit]], next=more)

    async def redrive(self, owner: str, selection: Selection) -> NumberAnswer:
        return NumberAnswer(dead_letters=await fleet.redrive(owner, selection))

    async def discard(self, owner: str, selection: Selection) -> NumberAnswer:
        return NumberAnswer(dead_letters=await fleet.discard(owner, selection))

    async def retry(self, owner: str, job_id: uuid.UUID) -> int:
        """Redrive at once all that was given up in a job; return how many steps it was."""
        return await fleet.retry(owner, job_id)


def _answer(view: LetterView, kept: timedelta) -> LetterAnswer:
    letter = view.letter
    return LetterAnswer(
        id=letter.id,
        state=LetterState(letter.state),
        job=letter.job_id,
        step=letter.step,
        op=view.op,
        source_name=view.source_name,
        attempt=letter.attempt,
        error=Problem.model_validate(letter.error),
        created_at=letter.created_at,
        expires_at=letter.created_at + kept,
        history=[
            HappeningAnswer(
                at=event.created_at,
                attempt=event.attempt,
                what=Happening(event.what),
                error=Problem.model_validate(event.error) if event.error else None,
            )
            for event in view.history
        ],
    )
