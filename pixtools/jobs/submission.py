"""A new job that ingress passes to the job store, and the identity of its request."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from uuid6 import uuid7

from pixtools.errors import KeyReused
from pixtools.jobs.records import PartRecord


@dataclass(frozen=True)
class NewStep:
    """A step to be stored. `params` holds the parameters that differ from their defaults. `key` is the step key."""

    name: str
    op: str
    inputs: tuple[str, ...]
    params: dict[str, Any]
    key: str


@dataclass(frozen=True)
class NewJob:
    """A job to be stored: its source image, its steps in running order, and the parts of its request.

    `pixels` is the work of the job: the pixels of the source and of the picture of each step, for all frames.
    `webhook_url` gets an event when the job ends. `is_process` says that the request came to `POST /api/process`.
    `request_id` is the id of this request. `traceparent` is the span of this request, or None without tracing.

    `created_at` is a time according to the clock of the database (`JobStore.now`). If it is None, the job gets the time
    of the transaction that stores the job.
    """

    owner: str
    source_key: str
    source_name: str
    source_media_type: str
    source_width: int
    source_height: int
    source_frames: int
    source_bytes: int
    source_sha256: str
    pixels: int
    steps: tuple[NewStep, ...]
    parts: tuple[PartRecord, ...] = ()
    webhook_url: str | None = None
    is_process: bool = False
    request_id: str | None = None
    traceparent: str | None = None
    id: uuid.UUID = field(default_factory=uuid7)  # a UUIDv7 begins with the time, so lists of jobs are sorted by id
    created_at: datetime | None = None


@dataclass(frozen=True)
class IdempotencyScope:
    """An idempotency key, with the owner and the route of its requests. Other owners or routes can use the same key."""

    owner: str
    route: str
    key: str


@dataclass(frozen=True)
class Idempotency:
    """The identity of a request: the scope of its idempotency key, and its fingerprint.

    The fingerprint is a digest of the content of the request. If two requests have the same scope and the same
    fingerprint, one request repeats the other.
    """

    scope: IdempotencyScope
    fingerprint: str

    def require_match(self, fingerprint: str) -> None:
        """Raise KeyReused (422) unless this request has the same `fingerprint` as the first request with the key."""
        if fingerprint != self.fingerprint:
            raise KeyReused("Send a new key with a new request, or the same request with the old key.")


@dataclass(frozen=True)
class Accepted:
    """The response to a submission: its body, the id of its job, and whether it repeats an earlier response."""

    body: bytes
    job_id: uuid.UUID
    replayed: bool
