"""Answers reads of a job. While a job does not change, one query answers a read."""

from __future__ import annotations

import threading
import uuid
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime

from pixtools.blob_store import BlobStore
from pixtools.database.delivery_store import DeliveryStore
from pixtools.database.job_store import JobStore
from pixtools.jobs.views import JobView
from pixtools.states import JOB_ENDED, JobState
from serve.process_answers import answer_of

_MAX_KEPT = 256
_MAX_KEPT_BYTES = 65_536  # a larger answer is not kept, so all of them together take at most 16 MB


@dataclass(frozen=True, slots=True)
class JobBody:
    """A job as JSON.

    Answers with the same `etag` are equal. `etag` is None if the answer may change without a new version of the job.
    """

    version: int
    state: JobState
    etag: str | None
    json: bytes


class JobBodies:
    """Builds the JSON of jobs, and keeps the answers that were read last. Its methods block, so call them in a thread.

    A kept answer is used until the job has a new version, or until `BlobStore.signing_time` changes.
    """

    def __init__(self, store: JobStore, blobs: BlobStore, deliveries: DeliveryStore) -> None:
        self._store = store
        self._deliveries = deliveries
        self._blobs = blobs
        self._kept: OrderedDict[uuid.UUID, JobBody] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, owner: str, job_id: uuid.UUID) -> JobBody:
        """Return the present body. Raises NotFound if the owner has no such job, and DatabaseDown."""
        body = self.newer_than(0, owner, job_id)
        assert body is not None  # noqa: S101 (the first version is 1)
        return body

    def newer_than(self, version: int, owner: str, job_id: uuid.UUID) -> JobBody | None:
        """Return the present body, or None if the job has no newer version than `version`. Raises like `of`."""
        present = self._store.status(owner, job_id).version
        if present <= version:
            return None
        with self._lock:
            kept = self._kept.get(job_id)
            if kept is not None and kept.etag == _etag(present, self._blobs.signing_time()):
                self._kept.move_to_end(job_id)
                return kept
        return self.read(owner, job_id)

    def read(self, owner: str, job_id: uuid.UUID) -> JobBody:
        """Read the job from the database, and return its body. Raises like `of`."""
        signed_at = self._blobs.signing_time()
        body = self._body(self._store.get(owner, job_id), signed_at)
        if body.etag is not None and len(body.json) <= _MAX_KEPT_BYTES:
            self._keep(job_id, body)
        return body

    def _body(self, view: JobView, signed_at: datetime) -> JobBody:
        job = view.job
        # If another job makes a lost file again, this job shows the new file without a new version.
        has_lost = any(artifact.lost_at is not None for artifact in view.artifacts.values())
        etag = None if has_lost else _etag(job.version, signed_at)
        # A webhook that is given up raises the version of its job.
        has_webhook = job.is_process and job.webhook_url is not None and job.state in JOB_ENDED
        webhook_failed = has_webhook and self._deliveries.webhook_failed(job.id)
        answer = answer_of(view, self._blobs, signed_at, webhook_failed=webhook_failed)
        json = answer.model_dump_json().encode()
        return JobBody(job.version, job.state, etag, json)

    def _keep(self, job_id: uuid.UUID, body: JobBody) -> None:
        with self._lock:
            self._kept[job_id] = body
            self._kept.move_to_end(job_id)
            if len(self._kept) > _MAX_KEPT:
                self._kept.popitem(last=False)


def _etag(version: int, signed_at: datetime) -> str:
    return f'"{version}-{signed_at.timestamp():.0f}"'
