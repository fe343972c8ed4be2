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
    """A step to be stored. `params` are the parameters that differ from their defaults; `key` is the step key."""

    name: str
    op: str
    inputs: tuple[str, ...]
    params: dict[str, Any]
    key: str


@dataclass(frozen=True)
class NewJob:
    """A job to be stored: its source image, its steps in running order, and the parts of its request.

    `created_at` is a time by the database's clock (`JobStore.now`). None means the time of the transaction that stores
    the job.
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
    steps: tuple[NewStep, ...]
    parts: tuple[PartRecord, ...] = ()
    id: uuid.UUID = field(default_factory=uuid7)  # UUIDv7, because lists of jobs are sorted by id
    created_at: datetime | None = None


@dataclass(frozen=True)
class IdempotencyScope:
    """Where an idempotency key is valid. Two owners, or two routes, can use one key without a conflict."""

    owner: str
    route: str
    key: str


@dataclass(frozen=True)
class Idempotency:
    """The identity of a request: the scope of its key, and its fingerprint. The fingerprint is a digest of the content.

    Two requests with equal scope and equal fingerprint are repetitions of one request.
    """

    scope: IdempotencyScope
    fingerprint: str

    def require_match(self, fingerprint: str) -> None:
        """Raise KeyReused (422) unless this request has `fingerprint`, which the first request with the key had."""
        if fingerprint != self.fingerprint:
            raise KeyReused("Send a new key with a new request, or the same request with the old key.")


@dataclass(frozen=True)
class Accepted:
    """The response to a submission: its body, the id of its job, and whether it repeats an earlier response."""

    body: bytes
    job_id: uuid.UUID
    replayed: bool
