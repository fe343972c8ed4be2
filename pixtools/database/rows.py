"""Turns rows of the database into records: selects the columns of a record and converts their values."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any, Generic, TypeVar

from sqlmodel import SQLModel, col

from pixtools.database.tables import (
    Artifact,
    DeadLetter,
    Delivery,
    DeliveryAttempt,
    Job,
    Part,
    Step,
    StepEvent,
    WebhookEndpoint,
)
from pixtools.jobs.records import (
    ArtifactRecord,
    DeadLetterRecord,
    JobRecord,
    PartRecord,
    StepEventRecord,
    StepRecord,
)
from pixtools.states import DeadLetterState, DeliveryState, JobState, StepEventKind, StepState
from pixtools.webhooks.events import Event
from pixtools.webhooks.records import AttemptRecord, DeliveryRecord, EndpointRecord

R = TypeVar("R")
K = TypeVar("K")
V = TypeVar("V")


class RecordColumns(Generic[R]):
    """The columns of a table that make up a record, in the order of the fields of the record.

    A store selects `columns` and then passes each row to `record`. The stores do not select entities of SQLAlchemy,
    because the identity map and the change tracking of entities cost more CPU time than the query.
    """

    def __init__(self, record_type: type[R], table: type[SQLModel], **converters: Any) -> None:
        """Each of `converters` has the name of a field, and turns the stored value into the value in the record."""
        names = [field.name for field in fields(record_type)]  # type: ignore[arg-type]
        self.columns = [col(getattr(table, name)) for name in names]
        self._record_type = record_type
        self._converters = [(names.index(name), convert) for name, convert in converters.items()]

    def __len__(self) -> int:
        return len(self.columns)

    def record(self, row: Sequence[Any]) -> R:
        """Return the record for a row. The row has the values of `columns`, in this order."""
        values = list(row)
        for index, convert in self._converters:
            values[index] = convert(values[index])
        return self._record_type(*values)


def group(pairs: Iterable[tuple[K, V]]) -> Mapping[K, list[V]]:
    """Return the values of each key, in the order of `pairs`. A key without values has an empty list."""
    groups: defaultdict[K, list[V]] = defaultdict(list)
    for key, value in pairs:
        groups[key].append(value)
    return groups


JOB = RecordColumns(JobRecord, Job, state=JobState)
STEP = RecordColumns(StepRecord, Step, inputs=tuple, state=StepState)
PART = RecordColumns(PartRecord, Part)
ARTIFACT = RecordColumns(ArtifactRecord, Artifact)
STEP_EVENT = RecordColumns(StepEventRecord, StepEvent, what=StepEventKind)
DEAD_LETTER = RecordColumns(DeadLetterRecord, DeadLetter, state=DeadLetterState)
DELIVERY = RecordColumns(DeliveryRecord, Delivery, event=Event, state=DeliveryState)
DELIVERY_ATTEMPT = RecordColumns(AttemptRecord, DeliveryAttempt)
ENDPOINT = RecordColumns(EndpointRecord, WebhookEndpoint, events=lambda names: tuple(map(Event, names)))
