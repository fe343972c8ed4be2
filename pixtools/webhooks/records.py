"""Endpoints and deliveries as plain data."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pixtools.states import DeliveryState
from pixtools.webhooks.events import Event


@dataclass(frozen=True, slots=True)
class EndpointRecord:
    """A registered receiver of events. `disabled_reason` says why a courier disabled it."""

    id: uuid.UUID
    owner: str
    url: str
    description: str
    events: tuple[Event, ...]
    include_urls: bool
    enabled: bool
    disabled_reason: str | None
    previous_until: datetime | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class DeliveryRecord:
    """One event for one receiver. If `endpoint_id` is None, the receiver is the `webhook_url` of the job.

    `attempt` counts claims. `tries` counts recorded attempts. `failures` counts failed attempts since the event or the
    last replay.
    """

    id: uuid.UUID
    event: Event
    job_id: uuid.UUID | None
    endpoint_id: uuid.UUID | None
    url: str
    destination: str
    data: dict[str, Any]
    state: DeliveryState
    attempt: int
    tries: int
    failures: int
    next_at: datetime
    created_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """One attempt of a delivery. `error` is None if an answer arrived, and then `status` is its status.

    `answer` has the first bytes of the answer as text. `ms` is the duration in milliseconds.
    """

    number: int
    at: datetime
    ms: int | None
    status: int | None
    error: str | None
    answer: str | None


@dataclass(frozen=True)
class ClaimedDelivery:
    """A delivery that a courier holds under a lease, with everything that its attempt needs.

    `secrets` are encrypted. They are empty if the owner of a job with a `webhook_url` has no secret yet.
    """

    record: DeliveryRecord
    owner: str
    include_urls: bool
    is_process: bool
    secrets: tuple[bytes, ...]


@dataclass(frozen=True)
class Answered:
    """The result of an attempt: the status of the answer, or the code of the error that prevented an answer.

    `destination_failed` says whether the destination itself fails, so that other deliveries to it would fail too. A
    status below 500 shows that the destination works. None means that no request was made.
    """

    status: int | None
    error: str | None
    ms: int
    answer: str | None = None
    retry_after: timedelta | None = None
    destination_failed: bool | None = None

    @property
    def is_success(self) -> bool:
        """Whether the receiver accepted the event."""
        return self.status is not None and 200 <= self.status < 300  # noqa: PLR2004 (statuses of success)

    @property
    def is_gone(self) -> bool:
        """Whether the receiver does not want any event any more."""
        return self.status == 410  # noqa: PLR2004 (Gone)


@dataclass(frozen=True)
class DeliverySelection:
    """A selection of one owner's deliveries. A delivery must match every field that is not None."""

    id: uuid.UUID | None = None
    job: uuid.UUID | None = None
    endpoint: uuid.UUID | None = None
    event: Event | None = None
    state: DeliveryState | None = None
