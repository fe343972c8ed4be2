"""Dead letters as readers see them, and the selection of dead letters."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from pixtools.jobs.records import DeadLetterRecord, StepEventRecord


@dataclass(frozen=True)
class DeadLetterSelection:
    """Selects the dead letters of an owner that match every field that is set. If no field is set, selects all."""

    id: uuid.UUID | None = None
    job: uuid.UUID | None = None
    op: str | None = None
    code: str | None = None  # of the error


@dataclass(frozen=True)
class DeadLetterView:
    """A dead letter with the operation, the source and the history of its step. The oldest event is first."""

    letter: DeadLetterRecord
    op: str
    source_name: str
    history: tuple[StepEventRecord, ...]


@dataclass(frozen=True)
class Redriven:
    """The result of a redrive: the job, and the number of its dead letters that were redriven."""

    job_id: uuid.UUID
    letters: int
