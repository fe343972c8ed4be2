"""Stores in memory with the interfaces of the real stores, so that tests of the actors need no server.

`test_fake_stores.py` compares these interfaces with the real ones.
"""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from pixtools.database.reconciler import Reconciled
from pixtools.errors import DatabaseDown, LeaseLost
from pixtools.jobs.dead_letters import DeadLetterSelection, Redriven
from pixtools.jobs.outcomes import Batch, Failed, Outcome, Started
from pixtools.jobs.records import ArtifactRecord, JobRecord, StepRecord
from pixtools.jobs.views import Claim, JobView
from pixtools.states import DEAD_LETTER_OPEN, STEP_ENDED, DeadLetterState, JobState, StepState

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def job_record(**changes: Any) -> JobRecord:
    """Return a job whose source has 64 × 48 pixels."""
    job = JobRecord(
        id=uuid.uuid4(), owner="ann", batch=None, state=JobState.QUEUED, version=1, attempt=0,
        created_at=NOW, finished_at=None, expires_at=None, source_key="sources/x", source_name="x.jpg",
        source_media_type="image/jpeg", source_width=64, source_height=48, source_frames=1, source_bytes=5,
        source_sha256="ab" * 32,
    )  # fmt: skip
    return replace(job, **changes)


def step_record(name: str, op: str = "png", inputs: tuple[str, ...] = ("source",), **changes: Any) -> StepRecord:
    step = StepRecord(
        name=name, op=op, inputs=inputs, params={}, key=f"key of {name}", state=StepState.WAITING, attempt=0,
        failures=0, crashes=0, error=None, artifact_id=None, started_at=None, run_ms=None,
    )  # fmt: skip
    return replace(step, **changes)


def artifact_record(step_key: str, **changes: Any) -> ArtifactRecord:
    artifact = ArtifactRecord(
        id=uuid.uuid4(), step_key=step_key, blob_key=f"blob of {step_key}", media_type="image/png", width=64, height=48,
        bytes=9, sha256="cd" * 32, result=None, lost_at=None,
    )  # fmt: skip
    return replace(artifact, **changes)


class FakeDatabase:
    """A database without tables. Every transaction raises DatabaseDown while `down` is true."""

    def __init__(self) -> None:
        self.down = False
        self.ping_error: Exception | None = None  # each ping raises this error
        self._lock = threading.Lock()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with self._lock:
            if self.down:
                raise DatabaseDown("OperationalError")
            yield

    def ping(self) -> None:
        with self.transaction():
            if self.ping_error is not None:
                raise self.ping_error


@dataclass
class FakeJob:
    """One row of the job table, with the steps of the job."""

    view: JobView
    dispatcher: str | None = None
    crashes: int = 0
    lease_lost: bool = False
    outcomes: list[tuple[int, Outcome]] = field(default_factory=list)  # each outcome with the number of its attempt

    @property
    def state(self) -> JobState:
        return self.view.job.state

    @property
    def attempt(self) -> int:
        return self.view.job.attempt

    def move(self, state: JobState, dispatcher: str | None = None, *, attempts: int = 0) -> None:
        job = replace(self.view.job, state=state, attempt=self.attempt + attempts)
        self.view, self.dispatcher = replace(self.view, job=job), dispatcher

    def settled(self) -> JobState:
        """Return the state of the job at the end of an attempt. Each failure counts as permanent."""
        if any(isinstance(outcome, Failed) for _, outcome in self.outcomes):
            return JobState.FAILED
        ended = {outcome.step for _, outcome in self.outcomes if not isinstance(outcome, Started)}
        ended |= {step.name for step in self.view.steps if step.state in STEP_ENDED}
        complete = ended >= {step.name for step in self.view.steps}
        return JobState.SUCCEEDED if complete else JobState.QUEUED


class FakeJobStore:
    """A job store with the methods that actors call. No lease runs out by itself: a test sets `lease_lost`."""

    def __init__(self, database: FakeDatabase, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock
        self.jobs: dict[uuid.UUID, FakeJob] = {}
        self.calls: list[tuple[str, float]] = []  # the method and the time of each call
        # An error for the next call of a method. The call first does its task, and then raises this error.
        self.errors: dict[str, Exception] = {}
        self.refreshed: Callable[[Claim], Claim] = lambda claim: claim
        self.before_claim: Callable[[], object] = lambda: None  # each claim first calls this, in the claim's thread

    def add(
        self,
        *steps: StepRecord,
        state: JobState = JobState.QUEUED,
        dispatcher: str | None = None,
        source: str | None = None,
    ) -> FakeJob:
        """Add a job that is in the queue, or that a dispatcher runs."""
        # The sources differ, so no job waits for a step of another job.
        record = job_record(state=state, source_sha256=source or uuid.uuid4().hex)
        view = JobView(record, steps or (step_record("a"),), {})
        job = self.jobs[view.job.id] = FakeJob(view, dispatcher)
        return job

    def times(self, method: str) -> list[float]:
        """Return the times of all calls of a method."""
        return [time for name, time in self.calls if name == method]

    @contextmanager
    def _call(self, method: str) -> Iterator[None]:
        self.calls.append((method, self._clock()))
        with self._database.transaction():
            yield
        if (error := self.errors.pop(method, None)) is not None:
            raise error

    def _with(self, state: JobState) -> list[FakeJob]:
        return [job for job in self.jobs.values() if job.state == state]

    def claim(self, dispatcher: str, limit: int) -> list[Claim]:
        self.before_claim()
        with self._call("claim"):
            jobs = self._with(JobState.QUEUED)[:limit]
            for job in jobs:
                job.move(JobState.RUNNING, dispatcher, attempts=1)
            return [Claim(job.view, {}) for job in jobs]

    def refresh(self, claim: Claim) -> Claim:
        with self._call("refresh"):
            if not self._holds(claim.id, claim.attempt):
                raise LeaseLost(f"job {claim.id}, attempt {claim.attempt}")
            return self.refreshed(claim)

    def renew(self, held: Iterable[tuple[uuid.UUID, int]]) -> set[tuple[uuid.UUID, int]]:
        with self._call("renew"):
            return {lease for lease in held if self._holds(*lease)}

    def _holds(self, job_id: uuid.UUID, attempt: int) -> bool:
        job = self.jobs[job_id]
        return (job.state, job.attempt, job.lease_lost) == (JobState.RUNNING, attempt, False)

    def record(self, batches: Sequence[Batch]) -> list[JobState | Exception]:
        with self._call("record"):
            return [self._record(batch) for batch in batches]

    def _record(self, batch: Batch) -> JobState | Exception:
        if not self._holds(batch.job_id, batch.attempt):
            return LeaseLost(f"job {batch.job_id}, attempt {batch.attempt}")
        job = self.jobs[batch.job_id]
        job.outcomes += [(batch.attempt, outcome) for outcome in batch.outcomes]
        if batch.settle:
            job.move(job.settled())
        return job.state

    def return_to_queue(
        self, dispatcher: str | None = None, still_running: Collection[uuid.UUID] = ()
    ) -> list[uuid.UUID]:
        with self._call("return_to_queue"):
            jobs = [
                job
                for job in self._with(JobState.RUNNING)
                if dispatcher in (None, job.dispatcher) and job.view.job.id not in still_running
            ]
            return [self._requeue(job) for job in jobs]

    def rescue(self, dispatcher: str | None = None) -> list[uuid.UUID]:
        with self._call("rescue"):
            jobs = [
                job
                for job in self._with(JobState.RUNNING)
                if (job.lease_lost if dispatcher is None else job.dispatcher == dispatcher)
            ]
            for job in jobs:
                job.crashes += 1
            return [self._requeue(job) for job in jobs]

    def _requeue(self, job: FakeJob) -> uuid.UUID:
        job.move(JobState.QUEUED)
        job.lease_lost = False
        return job.view.job.id

    def delete_expired_responses(self) -> int:
        with self._call("delete_expired_responses"):
            return 0


class FakeDeadLetterStore:
    """A store with the methods that the dead-letter queue calls. A letter is an id, a job id and a state."""

    def __init__(self, database: FakeDatabase, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock
        self.letters: dict[uuid.UUID, uuid.UUID] = {}
        self.states: dict[uuid.UUID, DeadLetterState] = {}
        self.redriven_at: list[float] = []
        self.observations = 0

    def add(self, number: int = 1, *, job: uuid.UUID | None = None) -> list[uuid.UUID]:
        """Add `number` waiting dead letters. Without `job`, each letter belongs to a different job."""
        new = [uuid.uuid4() for _ in range(number)]
        for letter in new:
            self.letters[letter] = job or uuid.uuid4()
            self.states[letter] = DeadLetterState.WAITING
        return new

    def in_state(self, state: DeadLetterState) -> list[uuid.UUID]:
        return [letter for letter, found in self.states.items() if found == state]

    def request_redrive(self, owner: str, selection: DeadLetterSelection) -> list[uuid.UUID]:  # noqa: ARG002
        with self._database.transaction():
            waiting = [
                letter
                for letter in self.in_state(DeadLetterState.WAITING)
                if selection.job in (None, self.letters[letter]) and selection.id in (None, letter)
            ]
            self._move(waiting, DeadLetterState.REDRIVING)
            return waiting

    def pending_redrives(self) -> list[uuid.UUID]:
        with self._database.transaction():
            return self.in_state(DeadLetterState.REDRIVING)

    def redrive(self, letter_id: uuid.UUID) -> Redriven | None:
        with self._database.transaction():
            return self._redrive(self.letters[letter_id])

    def retry(self, owner: str, job_id: uuid.UUID) -> Redriven | None:  # noqa: ARG002
        with self._database.transaction():
            of_job = [letter for letter in self.in_state(DeadLetterState.WAITING) if self.letters[letter] == job_id]
            self._move(of_job, DeadLetterState.REDRIVING)
            return self._redrive(job_id)

    def _redrive(self, job_id: uuid.UUID) -> Redriven | None:
        of_job = [letter for letter in self.in_state(DeadLetterState.REDRIVING) if self.letters[letter] == job_id]
        self._move(of_job, DeadLetterState.REDRIVEN)
        if not of_job:
            return None
        self.redriven_at.append(self._clock())
        return Redriven(job_id, len(of_job))

    def discard(self, owner: str, selection: DeadLetterSelection) -> int:  # noqa: ARG002
        with self._database.transaction():
            found = [
                letter
                for letter, state in self.states.items()
                if state in DEAD_LETTER_OPEN and selection.job in (None, self.letters[letter])
            ]
            self._move(found, DeadLetterState.DISCARDED)
            return len(found)

    def count_new(self) -> Counter[str]:
        with self._database.transaction():
            self.observations += 1
            return Counter()

    def delete_old(self, retention: timedelta) -> int:  # noqa: ARG002
        with self._database.transaction():
            return 0

    def counts(self) -> dict[DeadLetterState, int]:
        with self._database.transaction():
            return {state: len(self.in_state(state)) for state in DeadLetterState}

    def _move(self, letters: list[uuid.UUID], state: DeadLetterState) -> None:
        self.states |= dict.fromkeys(letters, state)


class FakeReconciler:
    """A reconciler that only remembers the times of its runs."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.runs: list[float] = []
        self.error: Exception | None = None

    def run(self) -> Reconciled:
        self.runs.append(self._clock())
        if self.error is not None:
            raise self.error
        return Reconciled(*(0 for _ in fields(Reconciled)))


class FakeHints:
    """Hints that are delivered inside one process, without Redis. All published hints are remembered."""

    def __init__(self) -> None:
        self.published: list[tuple[str, str]] = []
        self.listen_error: Exception | None = None  # the next `listen` raises this error
        self._listeners: dict[str, list[asyncio.Queue[str]]] = defaultdict(list)

    async def publish(self, channel: str, *messages: str) -> None:
        for message in messages:
            self.published.append((channel, message))
            for listener in self._listeners[channel]:
                listener.put_nowait(message)

    async def listen(self, channel: str) -> AsyncIterator[str]:
        if (error := self.listen_error) is not None:
            self.listen_error = None
            raise error
        messages = asyncio.Queue[str]()
        self._listeners[channel].append(messages)
        while True:
            yield await messages.get()
