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
    """A dead letter with the source of its job.

    The dead letter of a step also has the operation and the history of the step, the oldest event first. The dead
    letter of a delivery has the URL of its receiver.
    """

    letter: DeadLetterRecord
    op: str | None
    url: str | None
    source_name: str
    history: tuple[StepEventRecord, ...]


@dataclass(frozen=True)
class Redriven:
    """The result of a redrive: the job, and how many of its dead letters of steps and of deliveries were redriven."""

    job_id: uuid.UUID
    steps: int
    deliveries: int = 0

    @property
    def letters(self) -> int:
        """The number of all dead letters that were redriven."""
        return self.steps + self.deliveries
