"""Dead letters as plain data: a selection, a view for readers, and the result of a redrive."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from pixtools.jobs.records import DeadLetterRecord, StepEventRecord


@dataclass(frozen=True)
class DeadLetterSelection:
    """A selection of one owner's dead letters. A dead letter must match every field that is not None."""

    id: uuid.UUID | None = None
    job: uuid.UUID | None = None
    op: str | None = None
    code: str | None = None  # the code of the error


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
