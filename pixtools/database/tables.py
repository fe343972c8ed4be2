"""The tables and their indexes. Allowed state moves are in states.py, and all other rules are in the stores."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    LargeBinary,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TEXT
from sqlmodel import Field, SQLModel

from pixtools.states import DeadLetterState, DeliveryState, JobState, StepEventKind, StepState


def _time(*, nullable: bool = False, now: bool = False) -> Any:
    # Every default time comes from the clock of the database, because the clocks of other machines differ.
    default = func.now() if now else None
    return Field(default=None, sa_column=Column(DateTime(timezone=True), nullable=nullable, server_default=default))


_States = type[JobState | StepState | DeadLetterState | DeliveryState | StepEventKind]


def _one_of(column: str, states: _States) -> CheckConstraint:
    values = ", ".join(f"'{state.value}'" for state in states)
    return CheckConstraint(f"{column} IN ({values})", name=f"known_{column}")


_KEY: Any = TEXT(collation="C")  # blob keys are sorted by their bytes, as in object storage


class Job(SQLModel, table=True):
    """One accepted request on one source image."""

    __table_args__ = (
        _one_of("state", JobState),
        Index("job_queue_by_owner", "owner", "available_at", postgresql_where=text("state = 'queued'")),
        Index("job_leases", "lease_until", postgresql_where=text("state = 'running'")),
        Index("job_history", "owner", text("id DESC")),
        Index("job_batch", "batch", postgresql_where=text("batch IS NOT NULL")),
        Index("job_expiry", "expires_at"),
        Index("job_source", "source_key"),
    )

    id: uuid.UUID = Field(primary_key=True)  # a UUIDv7, so ids are in the order of creation
    owner: str = Field(sa_type=TEXT)
    batch: uuid.UUID | None = None
    state: str = Field(sa_type=TEXT)
    version: int = 1  # grows with each visible change; also the id of server-sent events
    attempt: int = 0
    written: int = Field(default=0, sa_column_kwargs={"server_default": "0"})  # number of the last batch of outcomes
    crashes: int = 0  # dispatchers that died while they held the job
    dispatcher: str | None = Field(default=None, sa_type=TEXT)
    available_at: datetime = _time(now=True)
    lease_until: datetime | None = _time(nullable=True)
    created_at: datetime = _time(now=True)
    started_at: datetime | None = _time(nullable=True)
    finished_at: datetime | None = _time(nullable=True)
    expires_at: datetime | None = _time(nullable=True)  # NULL: the job never expires

    source_key: str = Field(sa_type=_KEY)
    source_name: str = Field(sa_type=TEXT)
    source_media_type: str = Field(sa_type=TEXT)
    source_width: int
    source_height: int
    source_frames: int = Field(default=1, sa_column_kwargs={"server_default": "1"})
    source_bytes: int
    source_sha256: str = Field(sa_type=TEXT)
    # Pixels of the source and of the picture of each step; 0 if an earlier version stored the job.
    pixels: int = Field(sa_column=Column(BigInteger, nullable=False, server_default="0"))
    webhook_url: str | None = Field(default=None, sa_type=TEXT)  # gets the event of the end of this job
    # Whether the request came to `POST /api/process`, whose clients expect other fields in answers and webhooks.
    is_process: bool = Field(default=False, sa_column_kwargs={"server_default": text("false")})
    request_id: str | None = Field(default=None, sa_type=TEXT)  # of the request that submitted the job, for log lines
    traceparent: str | None = Field(default=None, sa_type=TEXT)  # of this request (W3C Trace Context), if it is traced


class Part(SQLModel, table=True):
    """A further file of a request, beside the source, such as a logo."""

    __table_args__ = (Index("part_blob", "blob_key"),)

    job_id: uuid.UUID = Field(sa_column=Column(ForeignKey("job.id", ondelete="CASCADE"), primary_key=True))
    name: str = Field(primary_key=True, sa_type=TEXT)
    blob_key: str = Field(sa_type=_KEY)
    media_type: str = Field(sa_type=TEXT)
    width: int
    height: int
    frames: int
    bytes: int
    sha256: str = Field(sa_type=TEXT)


class Artifact(SQLModel, table=True):
    """A file that a step left in object storage. Steps of one owner with the same step key share one artifact."""

    __table_args__ = (
        UniqueConstraint("owner", "step_key", name="artifact_step_key"),
        Index("artifact_blob", "blob_key"),
    )

    id: uuid.UUID = Field(primary_key=True)
    owner: str = Field(sa_type=TEXT)
    step_key: str = Field(sa_type=TEXT)
    blob_key: str = Field(sa_type=_KEY)
    media_type: str = Field(sa_type=TEXT)
    width: int | None = None
    height: int | None = None
    bytes: int = Field(sa_type=BigInteger)
    sha256: str = Field(sa_type=TEXT)
    result: dict[str, Any] | None = Field(default=None, sa_type=JSONB(none_as_null=True))
    created_at: datetime = _time(now=True)
    lost_at: datetime | None = _time(nullable=True)  # when the blob was found to be missing


class Step(SQLModel, table=True):
    """One operation in one job."""

    __table_args__ = (
        _one_of("state", StepState),
        Index("step_artifact", "artifact_id", postgresql_where=text("artifact_id IS NOT NULL")),
    )

    job_id: uuid.UUID = Field(sa_column=Column(ForeignKey("job.id", ondelete="CASCADE"), primary_key=True))
    name: str = Field(primary_key=True, sa_type=TEXT)
    position: int
    op: str = Field(sa_type=TEXT)
    inputs: list[str] = Field(sa_column=Column(ARRAY(TEXT), nullable=False))
    params: dict[str, Any] = Field(sa_column=Column(JSONB, nullable=False))
    key: str = Field(sa_type=TEXT)
    state: str = Field(sa_type=TEXT)
    attempt: int = 0  # number of the attempt that last began or cached the step
    failures: int = 0  # failed tries; tries that fail with an outage are not counted
    crashes: int = 0  # converters that died while they ran the step
    error: dict[str, Any] | None = Field(default=None, sa_type=JSONB(none_as_null=True))
    artifact_id: uuid.UUID | None = Field(default=None, foreign_key="artifact.id")
    started_at: datetime | None = _time(nullable=True)
    run_ms: int | None = None


_OPEN = "state IN ('waiting', 'redriving')"


class DeadLetter(SQLModel, table=True):
    """A step or a delivery that failed permanently."""

    __tablename__ = "dead_letter"
    __table_args__ = (
        _one_of("state", DeadLetterState),
        CheckConstraint("(step IS NULL) <> (delivery_id IS NULL)", name="step_or_delivery"),
        # A step and a delivery have at most one open dead letter.
        Index("dead_letter_open", "job_id", "step", unique=True, postgresql_where=text(_OPEN)),
        Index("dead_letter_delivery", "delivery_id", unique=True, postgresql_where=text(_OPEN)),
        # For the deletion of a delivery, which deletes its dead letters in every state.
        Index("dead_letter_of_delivery", "delivery_id", postgresql_where=text("delivery_id IS NOT NULL")),
        Index("dead_letter_history", "owner", text("id DESC")),
        Index("dead_letter_job", "job_id"),
        Index("dead_letter_redriving", "moved_at", postgresql_where=text("state = 'redriving'")),
        Index("dead_letter_new", "id", postgresql_where=text("noted_at IS NULL")),
        Index("dead_letter_expiry", "created_at"),
    )

    id: uuid.UUID = Field(primary_key=True)
    owner: str = Field(sa_type=TEXT)
    job_id: uuid.UUID = Field(foreign_key="job.id", ondelete="CASCADE")
    step: str | None = Field(default=None, sa_type=TEXT)
    delivery_id: uuid.UUID | None = Field(default=None, foreign_key="delivery.id", ondelete="CASCADE")
    attempt: int
    state: str = Field(
        default=DeadLetterState.WAITING, sa_column=Column(TEXT, nullable=False, server_default=DeadLetterState.WAITING)
    )
    error: dict[str, Any] = Field(sa_column=Column(JSONB, nullable=False))
    created_at: datetime = _time(now=True)
    moved_at: datetime = _time(now=True)
    noted_at: datetime | None = _time(nullable=True)  # when the dead-letter queue counted the dead letter


class StepEvent(SQLModel, table=True):
    """One event in the history of a step. The history does not contain successful tries."""

    __tablename__ = "step_event"
    __table_args__ = (
        _one_of("what", StepEventKind),
        Index("step_history", "job_id", "step", "id"),
    )

    id: int | None = Field(default=None, sa_column=Column(BigInteger, Identity(always=True), primary_key=True))
    job_id: uuid.UUID = Field(foreign_key="job.id", ondelete="CASCADE")
    step: str = Field(sa_type=TEXT)
    attempt: int
    what: str = Field(sa_type=TEXT)
    error: dict[str, Any] | None = Field(default=None, sa_type=JSONB(none_as_null=True))
    created_at: datetime = _time(now=True)


class WebhookSecret(SQLModel, table=True):
    """The secret that signs the webhooks of the jobs of one owner, which name their receiver in `webhook_url`."""

    __tablename__ = "webhook_secret"

    owner: str = Field(primary_key=True, sa_type=TEXT)
    secret: bytes = Field(sa_column=Column(LargeBinary, nullable=False))  # encrypted, see pixtools/webhooks/vault.py
    previous_secret: bytes | None = None  # encrypted; also signs until `previous_until`
    previous_until: datetime | None = _time(nullable=True)


class WebhookEndpoint(SQLModel, table=True):
    """A registered receiver of the events of one owner."""

    __tablename__ = "webhook_endpoint"
    __table_args__ = (Index("webhook_endpoint_owner", "owner", text("id DESC")),)

    id: uuid.UUID = Field(primary_key=True)
    owner: str = Field(sa_type=TEXT)
    url: str = Field(sa_type=TEXT)
    description: str = Field(sa_type=TEXT)
    events: list[str] = Field(sa_column=Column(ARRAY(TEXT), nullable=False))
    include_urls: bool  # whether the bodies contain download URLs
    enabled: bool
    disabled_reason: str | None = Field(default=None, sa_type=TEXT)  # why a courier disabled the endpoint
    secret: bytes = Field(sa_column=Column(LargeBinary, nullable=False))  # encrypted
    previous_secret: bytes | None = None
    previous_until: datetime | None = _time(nullable=True)
    created_at: datetime = _time(now=True)


_NOT_ENDED = "state IN ('waiting', 'sending', 'held')"


class Delivery(SQLModel, table=True):
    """One event for one receiver. Its id is the `webhook-id`, so all attempts have the same one."""

    __table_args__ = (
        _one_of("state", DeliveryState),
        Index("delivery_queue", "destination", "next_at", postgresql_where=text("state = 'waiting'")),
        Index("delivery_leases", "lease_until", postgresql_where=text("state = 'sending'")),
        Index("delivery_open", "endpoint_id", "state", postgresql_where=text(_NOT_ENDED)),
        Index("delivery_history", "owner", text("id DESC")),
        # Without the state delivered: most deliveries have it, so the index of the history finds them quickly.
        Index("delivery_states", "owner", "state", text("id DESC"), postgresql_where=text("state <> 'delivered'")),
        Index("delivery_job", "job_id"),
        Index("delivery_endpoint", "endpoint_id", text("id DESC")),
        Index("delivery_expiry", "finished_at", postgresql_where=text("finished_at IS NOT NULL")),
    )

    id: uuid.UUID = Field(primary_key=True)
    owner: str = Field(sa_type=TEXT)
    event: str = Field(sa_type=TEXT)
    job_id: uuid.UUID | None = Field(default=None, foreign_key="job.id", ondelete="CASCADE")  # NULL: a test
    # NULL: the receiver is the `webhook_url` of the job
    endpoint_id: uuid.UUID | None = Field(default=None, foreign_key="webhook_endpoint.id", ondelete="CASCADE")
    url: str = Field(sa_type=TEXT)
    destination: str = Field(sa_type=TEXT)  # scheme, host and port of `url`: the receivers that fail together
    data: dict[str, Any] = Field(sa_column=Column(JSONB, nullable=False))
    state: str = Field(
        default=DeliveryState.WAITING, sa_column=Column(TEXT, nullable=False, server_default=DeliveryState.WAITING)
    )
    attempt: int = Field(default=0, sa_column_kwargs={"server_default": "0"})  # grows with each claim
    tries: int = Field(default=0, sa_column_kwargs={"server_default": "0"})  # attempts that have ended with a result
    failures: int = Field(default=0, sa_column_kwargs={"server_default": "0"})  # since the event or the last replay
    courier: str | None = Field(default=None, sa_type=TEXT)
    next_at: datetime = _time(now=True)
    lease_until: datetime | None = _time(nullable=True)
    created_at: datetime = _time(now=True)
    finished_at: datetime | None = _time(nullable=True)


class DeliveryAttempt(SQLModel, table=True):
    """One attempt of a delivery, and the answer of the receiver."""

    __tablename__ = "delivery_attempt"

    delivery_id: uuid.UUID = Field(sa_column=Column(ForeignKey("delivery.id", ondelete="CASCADE"), primary_key=True))
    number: int = Field(primary_key=True)
    at: datetime = _time(now=True)
    ms: int | None = None
    status: int | None = None
    error: str | None = Field(default=None, sa_type=TEXT)
    answer: str | None = Field(default=None, sa_type=TEXT)  # the first bytes of the answer


class Installation(SQLModel, table=True):
    """The id of this database, in one row. No other database has this id."""

    id: uuid.UUID = Field(primary_key=True, sa_column_kwargs={"server_default": text("gen_random_uuid()")})


class StoredResponse(SQLModel, table=True):
    """The response to the first request with an idempotency key. One transaction stores the response and its job."""

    __tablename__ = "idempotency"
    __table_args__ = (Index("idempotency_expiry", "expires_at"), Index("idempotency_job", "job_id"))

    owner: str = Field(primary_key=True, sa_type=TEXT)
    route: str = Field(primary_key=True, sa_type=TEXT)
    key: str = Field(primary_key=True, sa_type=TEXT)
    fingerprint: str = Field(sa_type=TEXT)
    job_id: uuid.UUID = Field(foreign_key="job.id", ondelete="CASCADE")
    body: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    created_at: datetime = _time(now=True)
    expires_at: datetime = _time()
