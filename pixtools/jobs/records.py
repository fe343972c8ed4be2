"""Rows of the database as plain data, without a connection to the database.

Each record has only those fields of its table that readers need. The fields have the same names as in
`pixtools/database/tables.py`.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pixtools.states import DeadLetterState, JobState, StepEventKind, StepState


@dataclass(frozen=True, slots=True)
class JobRecord:
    """One accepted request on one source image."""

    id: uuid.UUID
    owner: str
    batch: uuid.UUID | None
    state: JobState
    version: int
    attempt: int
    created_at: datetime
    finished_at: datetime | None
    expires_at: datetime | None
    source_key: str
    source_name: str
    source_media_type: str
    source_width: int
    source_height: int
    source_frames: int
    source_bytes: int
    source_sha256: str
    webhook_url: str | None = None
    is_process: bool = False
    request_id: str | None = None
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One operation in one job. `run_ms` is the duration of the last try in milliseconds."""

    name: str
    op: str
    inputs: tuple[str, ...]
    params: dict[str, Any]
    key: str
    state: StepState
    attempt: int
    failures: int
    crashes: int
    error: dict[str, Any] | None
    artifact_id: uuid.UUID | None
    started_at: datetime | None
    run_ms: int | None


@dataclass(frozen=True, slots=True)
class PartRecord:
    """A part: a further file of a request, beside the source."""

    name: str
    blob_key: str
    media_type: str
    width: int
    height: int
    frames: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ArtifactRecord:
    """A file that a step left in object storage. `lost_at` is the time at which its blob was found to be missing."""

    id: uuid.UUID
    step_key: str
    blob_key: str
    media_type: str
    width: int | None
    height: int | None
    bytes: int
    sha256: str
    result: dict[str, Any] | None
    lost_at: datetime | None


@dataclass(frozen=True, slots=True)
class StepEventRecord:
    """One event in the history of a step: a failed try, or a decision about its dead letter."""

    attempt: int
    what: StepEventKind
    error: dict[str, Any] | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class DeadLetterRecord:
    """A step or a delivery that failed permanently. `error` is its last error as a problem (RFC 9457).

    Either `step` or `delivery_id` is None.
    """

    id: uuid.UUID
    job_id: uuid.UUID
    step: str | None
    delivery_id: uuid.UUID | None
    attempt: int
    state: DeadLetterState
    error: dict[str, Any]
    created_at: datetime
