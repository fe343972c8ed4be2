"""Helpers for store tests: jobs to submit, outcomes to record, and a clock that changes times in the database."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from types import SimpleNamespace

import psycopg
from psycopg.rows import dict_row

from pixtools.database.job_store import JobStore
from pixtools.errors import CorruptImage
from pixtools.jobs.outcomes import Batch, Failed, Outcome, Started, Stored, Succeeded
from pixtools.jobs.records import PartRecord
from pixtools.jobs.submission import Accepted, Idempotency, IdempotencyScope, NewJob, NewStep
from pixtools.jobs.views import Claim
from pixtools.states import JobState, StepState

ANN, BOB = "ann", "bob"

ONE = {"a": ("source",)}
CHAIN = {"t": ("source",), "a": ("t",), "b": ("t",), "z": ("a", "b"), "other": ("source",)}
"""Steps `a` and `b` read step `t`. Step `z` bundles `a` and `b`. Step `other` reads only the source."""


OPS = {"t": "resize", "u": "resize", "z": "zip"}
"""The operations of steps, by the names of the steps. Steps with other names have the operation `png`."""


def new_job(
    steps: dict[str, tuple[str, ...]] | None = None, *, owner: str = ANN, keys: str = "", parts: tuple[str, ...] = (),
    pixels: int = 24, webhook_url: str | None = None, is_process: bool = False,
) -> NewJob:  # fmt: skip
    """Return a job with these steps and their inputs.

    Jobs with the same `keys` have the same step keys. Without `keys`, the step keys of each job are unique.
    """
    unique = keys or uuid.uuid4().hex
    return NewJob(
        owner=owner,
        source_key="sources/x",
        source_name="x.jpg",
        source_media_type="image/jpeg",
        source_width=4,
        source_height=3,
        source_frames=1,
        source_bytes=5,
        source_sha256="ab" * 32,
        pixels=pixels,
        webhook_url=webhook_url,
        is_process=is_process,
        steps=tuple(
            NewStep(name, OPS.get(name, "png"), inputs, {"n": 1}, f"{name}-{unique}")
            for name, inputs in (steps or ONE).items()
        ),
        parts=tuple(PartRecord(name, f"sources/x-{name}", "image/png", 4, 3, 1, 7, "ef" * 32) for name in parts),
    )


def submit(store: JobStore, new: NewJob | None = None, request: Idempotency | None = None) -> Accepted:
    """Submit a job. Calls with the same `request` make one job. The response contains the id of the job."""
    new = new or new_job()
    body = f"job {new.id}".encode()
    if request is None:
        return Accepted(body, store.submit(new).job.id, replayed=False)
    if new.created_at is None:
        new = replace(new, created_at=store.now())
    return store.submit_once(new, request, body)


def asked(key: str = "k", *, owner: str = ANN, route: str = "POST /api/jobs", content: str = "same") -> Idempotency:
    """Return the identity of a request with this key and this content."""
    return Idempotency(IdempotencyScope(owner, route, key), content)


def claim(store: JobStore, dispatcher: str = "d0") -> Claim:
    """Claim the only queued job."""
    (claimed,) = store.claim(dispatcher, 1)
    return claimed


def submitted(store: JobStore, new: NewJob | None = None) -> Claim:
    """Submit a job and claim it."""
    job_id = submit(store, new).job_id
    claimed = claim(store)
    assert claimed.id == job_id
    return claimed


def stored(claimed: Claim, step: str, blob: str = "blob") -> Stored:
    """Return an artifact of a step, stored under the blob key `blob`."""
    (key,) = (row.key for row in claimed.view.steps if row.name == step)
    return Stored(key, blob, "image/png", 9, "cd" * 32, 4, 3, {"fact": step})


def finish(store: JobStore, claimed: Claim, *steps: str, settle: bool = False) -> JobState:
    """Record that steps ran and succeeded, each with an artifact."""
    outcomes = [outcome for step in steps for outcome in (Started(step), Succeeded(step, stored(claimed, step), 7))]
    return record(store, claimed, *outcomes, settle=settle)


def record(
    store: JobStore, claimed: Claim, *outcomes: Outcome, batch: int | None = None, settle: bool = False,
) -> JobState:  # fmt: skip
    """Record outcomes for the attempt of a claim. Raises the error of the batch, such as LeaseLost."""
    return record_batch(store, Batch(claimed.id, claimed.attempt, outcomes, batch, settle))


def record_batch(store: JobStore, batch: Batch) -> JobState:
    """Record one batch. Raises its error, such as LeaseLost."""
    (result,) = store.record([batch])
    if isinstance(result, Exception):
        raise result
    return result


def fail(store: JobStore, claimed: Claim, *steps: str, settle: bool = False) -> JobState:
    """Record that steps failed with an error that is not retryable."""
    outcomes = [outcome for step in steps for outcome in (Started(step), Failed(step, CorruptImage()))]
    return record(store, claimed, *outcomes, settle=settle)


def states(store: JobStore, job_id: uuid.UUID, owner: str = ANN) -> dict[str, StepState]:
    """Return the state of each step of a job."""
    return {step.name: step.state for step in store.get(owner, job_id).steps}


def job_row(database: psycopg.Connection, job_id: uuid.UUID) -> SimpleNamespace:
    """Return all columns of a job, including those that are not part of a record."""
    with database.cursor(row_factory=dict_row) as cursor:
        (row,) = cursor.execute("SELECT * FROM job WHERE id = %s", [job_id]).fetchall()
    return SimpleNamespace(**row)


def everything(database: psycopg.Connection) -> list[tuple]:
    """Return all rows of all jobs, so that a test can notice every change."""
    return [
        row
        for table in ("job", "part", "step", "artifact", "dead_letter", "step_event", "idempotency")
        for row in database.execute(f"SELECT {table}::text FROM {table} ORDER BY 1").fetchall()
    ]


def history(database: psycopg.Connection, step: str = "a") -> list[tuple[int, str, str | None]]:
    """Return the attempt, the kind and the error code of each event of the steps with this name."""
    query = "SELECT attempt, what, error->>'code' FROM step_event WHERE step = %s ORDER BY id"
    return database.execute(query, [step]).fetchall()


@dataclass(frozen=True)
class Clock:
    """Methods that replace waiting: they change a time of one record in the database."""

    database: psycopg.Connection

    def end_backoff(self, job_id: uuid.UUID) -> None:
        """Make a queued job available now."""
        self._change("UPDATE job SET available_at = now() WHERE id = %s", job_id)

    def end_lease(self, job_id: uuid.UUID) -> None:
        """Make the lease on a job expire."""
        self._change("UPDATE job SET lease_until = now() - interval '1 second' WHERE id = %s", job_id)

    def end_retention(self, job_id: uuid.UUID) -> None:
        """Make the retention of a job end."""
        self._change("UPDATE job SET expires_at = now() - interval '1 second' WHERE id = %s", job_id)

    def end_response(self, key: str) -> None:
        """Make the stored response of an idempotency key expire."""
        self._change("UPDATE idempotency SET expires_at = now() - interval '1 second' WHERE key = %s", key)

    def delay(self, job_id: uuid.UUID) -> float:
        """Return the seconds until a queued job is available."""
        (row,) = self.database.execute(
            "SELECT extract(epoch FROM available_at - now())::float FROM job WHERE id = %s", [job_id]
        ).fetchall()
        return row[0]

    def _change(self, statement: str, key: object) -> None:
        assert self.database.execute(statement, [key]).rowcount == 1
