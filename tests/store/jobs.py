"""Jobs for tests of the job store, and the ways to make time pass for them."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

import psycopg

from pixtools.database.job_store import Accepted, Claim, Idempotency, JobStore, JobView, NewJob, NewPart, NewStep, Scope
from pixtools.errors import CorruptImage
from pixtools.jobs.outcomes import Began, Done, Failed, Outcome, Stored
from pixtools.states import JobState, StepState

ANN, BOB = "ann", "bob"

ONE = {"a": ("source",)}
CHAIN = {"t": ("source",), "a": ("t",), "b": ("t",), "z": ("a", "b"), "other": ("source",)}
"""Two steps that read one, a bundle of both, and one that reads none of them."""


OPS = {"t": "resize", "u": "resize", "z": "zip"}
"""What steps of these names do; all others encode."""


def new_job(
    steps: dict[str, tuple[str, ...]] | None = None, *, owner: str = ANN, keys: str = "", parts: tuple[str, ...] = (),
) -> NewJob:  # fmt: skip
    """Return a job whose step keys are its own, or those of all jobs that are given the same `keys`."""
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
        steps=tuple(
            NewStep(name, OPS.get(name, "png"), inputs, {"n": 1}, f"{name}-{unique}")
            for name, inputs in (steps or ONE).items()
        ),
        parts=tuple(NewPart(name, f"sources/x-{name}", "image/png", 4, 3, 1, 7, "ef" * 32) for name in parts),
    )


def render(view: JobView) -> bytes:
    return f"job {view.job.id}".encode()


def submit(store: JobStore, new: NewJob | None = None, request: Idempotency | None = None) -> Accepted:
    return store.submit(new or new_job(), request, render)


def asked(key: str = "k", *, owner: str = ANN, route: str = "POST /api/jobs", content: str = "same") -> Idempotency:
    return Idempotency(Scope(owner, route, key), content)


def claim(store: JobStore, dispatcher: str = "d0") -> Claim:
    (claimed,) = store.claim(dispatcher, 1)
    return claimed


def submitted(store: JobStore, new: NewJob | None = None) -> Claim:
    """Submit a job and claim it."""
    job_id = submit(store, new).job_id
    claimed = claim(store)
    assert claimed.id == job_id
    return claimed


def stored(claimed: Claim, step: str, blob: str = "blob") -> Stored:
    (key,) = (row.key for row in claimed.view.steps if row.name == step)
    return Stored(key, blob, "image/png", 9, "cd" * 32, 4, 3, {"fact": step})


def finish(store: JobStore, claimed: Claim, *steps: str, settle: bool = False) -> JobState:
    """Record that steps ran and left their artifacts."""
    outcomes = [outcome for step in steps for outcome in (Began(step), Done(step, stored(claimed, step), 7))]
    return store.record(claimed.id, claimed.attempt, outcomes, settle=settle)


def record(
    store: JobStore, claimed: Claim, *outcomes: Outcome, batch: int | None = None, settle: bool = False,
) -> JobState:  # fmt: skip
    return store.record(claimed.id, claimed.attempt, outcomes, batch=batch, settle=settle)


def fail(store: JobStore, claimed: Claim, *steps: str, settle: bool = False) -> JobState:
    """Record that steps failed for a reason that never passes."""
    outcomes = [outcome for step in steps for outcome in (Began(step), Failed(step, CorruptImage()))]
    return record(store, claimed, *outcomes, settle=settle)


def states(store: JobStore, job_id: uuid.UUID, owner: str = ANN) -> dict[str, StepState]:
    return {step.name: StepState(step.state) for step in store.get(owner, job_id).steps}


def everything(database: psycopg.Connection) -> list[tuple]:
    """Return all that is recorded, to compare with later."""
    return [
        row
        for table in ("job", "part", "step", "artifact", "dead_letter", "step_event")
        for row in database.execute(f"SELECT {table}::text FROM {table} ORDER BY 1").fetchall()
    ]


def history(database: psycopg.Connection, step: str = "a") -> list[tuple[int, str, str | None]]:
    """Return what befell the steps of a name: attempt, what, and the code of its error."""
    query = "SELECT attempt, what, error->>'code' FROM step_event WHERE step = %s ORDER BY id"
    return database.execute(query, [step]).fetchall()


@dataclass(frozen=True)
class Clock:
    """Time, as far as the database knows: it passes for one record at a time."""

    database: psycopg.Connection

    def end_backoff(self, job_id: uuid.UUID) -> None:
        self._change("UPDATE job SET available_at = now() WHERE id = %s", job_id)

    def end_lease(self, job_id: uuid.UUID) -> None:
        self._change("UPDATE job SET lease_until = now() - interval '1 second' WHERE id = %s", job_id)

    def end_retention(self, job_id: uuid.UUID) -> None:
        self._change("UPDATE job SET expires_at = now() - interval '1 second' WHERE id = %s", job_id)

    def end_answer(self, key: str) -> None:
        self._change("UPDATE idempotency SET expires_at = now() - interval '1 second' WHERE key = %s", key)

    def delay(self, job_id: uuid.UUID) -> float:
        """Return how many seconds a queued job has still to wait."""
        (row,) = self.database.execute(
            "SELECT extract(epoch FROM available_at - now())::float FROM job WHERE id = %s", [job_id]
        ).fetchall()
        return row[0]

    def _change(self, statement: str, key: object) -> None:
        assert self.database.execute(statement, [key]).rowcount == 1
