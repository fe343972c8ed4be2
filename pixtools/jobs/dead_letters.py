"""Dead letters as their readers see them, and how some of them are selected."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from pixtools.jobs.records import DeadLetterRecord, StepEventRecord


@dataclass(frozen=True)
class DeadLetterSelection:
    """Selects the dead letters of an owner that match every field that is set. Without a field it selects all."""

    id: uuid.UUID | None = None
    job: uuid.UUID | None = None
    op: str | None = None
    code: str | None = None  # of the error


@dataclass(frozen=True)
class DeadLetterView:
    """A dead letter with the operation and source of its step, and the history of that step, oldest event first."""

    letter: DeadLetterRecord
    op: str
    source_name: str
    history: tuple[StepEventRecord, ...]


@dataclass(frozen=True)
class Redriven:
    """The job that one redrive returned to the queue, and how many of its dead letters were redriven."""

    job_id: uuid.UUID
    letters: int
