"""Hypothesis makes random sequences of calls, with crashes and unconfirmed commits.

After each call, the stores must agree with a model. The model in model.py does what the documents promise.
`PIXTOOLS_EXAMPLES` sets the number of sequences.
"""

from __future__ import annotations

import json
import os
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import hypothesis
import psycopg
import pytest
import state_guards
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from jobs import ANN, BOB, asked, new_job
from jobs import submit as submit_job
from model import OPEN, ModelArtifact, ModelJob, ModelLetter, ModelStep
from pydantic import SecretStr
from sqlalchemy import Connection

from pixtools.database import migrate
from pixtools.database.connection import Database
from pixtools.database.dead_letter_store import DeadLetterStore
from pixtools.database.job_store import JobStore
from pixtools.database.retention_store import RetentionStore
from pixtools.database.rows import group
from pixtools.errors import (
    CorruptImage,
    DatabaseDown,
    DeadLetterClosed,
    JobEnded,
    KeyReused,
    LeaseLost,
    NotFound,
    StorageDown,
    StorageRefused,
)
from pixtools.jobs.dead_letters import DeadLetterSelection, Redriven
from pixtools.jobs.outcomes import Batch, Cached, Crashed, Failed, Outcome, Started, Stored, Succeeded
from pixtools.settings import Settings
from pixtools.states import DEAD_LETTER_MOVES, DeadLetterState, JobState, StepState
from pixtools.webhooks.events import JOB_EVENTS

EXAMPLES = int(os.environ.get("PIXTOOLS_EXAMPLES", "100"))
EXAMPLES_PER_TEST = 250  # low, so that a failing sequence can be shrunk within the time limit of a test
MAX_ATTEMPTS, MAX_CRASHES = 2, 2  # low, so that short sequences reach permanent failures

GRAPHS: tuple[dict[str, tuple[str, ...]], ...] = (
    {"a": ("source",)},
    {"a": ("source",), "b": ("source",)},
    {"t": ("source",), "a": ("t",), "b": ("t",), "z": ("a", "b")},
)


class Unreliable(Database):
    """A database whose next transaction can raise DatabaseDown.

    The fault "refused" raises the error before the commit, and "unconfirmed" raises it after the commit.
    """

    fault: str | None = None

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        fault, self.fault = self.fault, None
        with super().transaction() as connection:
            yield connection
            if fault == "refused":
                raise DatabaseDown(fault)
        if fault == "unconfirmed":
            raise DatabaseDown(fault)


@dataclass
class Stores:
    """The stores under test, on one database."""

    database: Unreliable
    jobs: JobStore
    letters: DeadLetterStore
    retention: RetentionStore
    connection: psycopg.Connection  # for direct reads, and to change times


@dataclass
class Hold:
    """A claim, as its dispatcher remembers it."""

    job: ModelJob
    attempt: int
    reusable: dict[str, uuid.UUID]
    batch: int = 0
    last: tuple[list[Outcome], int, bool] | None = None  # the last batch: its outcomes, its number, and `settle`


@dataclass(frozen=True)
class Write:
    """A batch of outcomes that a dispatcher writes. `batch` is its number, or None."""

    hold: Hold
    outcomes: list[Outcome]
    batch: int | None
    settle: bool


@dataclass
class Seen:
    """The content of a job as its owner sees it, and the version of the job."""

    version: int
    content: Any


@dataclass
class Model:
    """The model of the whole database: all jobs, artifacts and stored responses."""

    jobs: dict[uuid.UUID, ModelJob] = field(default_factory=dict)
    artifacts: dict[tuple[str, str], ModelArtifact] = field(default_factory=dict)
    responses: dict[tuple[str, str], tuple[str, uuid.UUID]] = field(default_factory=dict)

    @property
    def letters(self) -> list[ModelLetter]:
        return [letter for job in self.jobs.values() for letter in job.letters]

    def in_state(self, *states: JobState) -> list[ModelJob]:
        return [job for job in self.jobs.values() if job.state in states]

    def queue(self) -> list[ModelJob]:
        """Return the queued jobs in the order of claims: each owner's place in turn, then the time of creation."""
        places = Counter(job.owner for job in self.in_state(JobState.RUNNING))
        placed = []
        for job in self.in_state(JobState.QUEUED):
            places[job.owner] += 1
            placed.append((places[job.owner], job))
        return [job for _, job in sorted(placed, key=lambda pair: pair[0])]

    def has_artifact(self, owner: str, key: str, artifact_id: uuid.UUID) -> bool:
        found = self.artifacts.get((owner, key))
        return found is not None and found.id == artifact_id and not found.lost

    def referenced(self) -> set[tuple[str, str]]:
        return {(job.owner, step.key) for job in self.jobs.values() for step in job.steps.values() if step.file}


picks = st.integers(0, 11)
faults = st.sampled_from([None, None, None, None, "refused", "unconfirmed"])
owners = st.sampled_from([ANN, ANN, BOB])
events = st.sampled_from(["begin", "done", "done", "done", "cached", "again", "outage", "bad", "crashed"])
event_lists = st.lists(st.tuples(events, picks), max_size=5)

ERRORS = {"again": StorageRefused, "outage": StorageDown, "bad": CorruptImage}


class Machine(RuleBasedStateMachine):
    def __init__(self, stores: Stores) -> None:
        super().__init__()
        self.stores = stores
        self.model = Model()
        self.holds: list[Hold] = []  # claims of running dispatchers, including claims whose lease is lost
        self.zombies: list[Hold] = []  # claims of dispatchers that died but may come back
        self.seen: dict[uuid.UUID, Seen] = {}
        stores.database.fault = None
        stores.connection.execute("DELETE FROM job")
        stores.connection.execute("DELETE FROM artifact")

    def call(self, fault: str | None, call: Callable[[], Any]) -> tuple[bool, Any]:
        """Make a call with this fault of the database.

        Return whether the call took effect, and the result of the call. The result is None after DatabaseDown.
        """
        self.stores.database.fault = fault
        try:
            return True, call()
        except DatabaseDown as error:
            if error.detail != fault:  # the error has another cause, such as a deadlock
                raise
            return fault == "unconfirmed", None
        finally:
            self.stores.database.fault = None

    # Ingress

    @initialize(graph=st.sampled_from(GRAPHS), shared=st.booleans(), bad=st.booleans(), settle=st.booleans())
    def first(self, graph, *, shared, bad, settle):
        self.submit(ANN, graph, shared=shared, key=None, content="x", fault=None)
        self.claim("d0", 1, None)
        if bad:
            self.fail_permanently(0, 0, numbered=True, settle=settle)

    @precondition(lambda self: len(self.model.in_state(JobState.QUEUED, JobState.RUNNING)) < 2)
    @rule(
        owner=owners, graph=st.sampled_from(GRAPHS), shared=st.booleans(),
        key=st.sampled_from([None, "k1", "k2"]), content=st.sampled_from("xxy"), fault=faults,
    )  # fmt: skip
    def submit(self, owner, graph, *, shared, key, content, fault):
        new = new_job(graph, owner=owner, keys="same" if shared else "", webhook_url="https://receiver.example/")
        # A fault applies to the next transaction, so read the time before the fault is set.
        new = replace(new, created_at=self.stores.jobs.now())
        request = asked(key, owner=owner, content=content) if key else None
        first = self.model.responses.get((owner, key)) if key else None
        if first is not None and first[0] != content and fault is None:
            with pytest.raises(KeyReused):
                submit_job(self.stores.jobs, new, request)
            return
        happened, accepted = self.call(fault, lambda: submit_job(self.stores.jobs, new, request))
        if first is not None:
            assert accepted is None or (accepted.job_id, accepted.replayed) == (first[1], True)
            return
        assert accepted is None or (accepted.job_id, accepted.replayed) == (new.id, False)
        if happened:
            steps = {step.name: ModelStep(step.name, step.key, step.inputs) for step in new.steps}
            self.model.jobs[new.id] = ModelJob(new.id, owner, steps)
            if key:
                self.model.responses[owner, key] = (content, new.id)

    @precondition(lambda self: self.model.responses)
    @rule(owner=owners, key=st.sampled_from(["k1", "k2"]), content=st.sampled_from("xxy"))
    def replay(self, owner, key, content):
        first = self.model.responses.get((owner, key))
        request = asked(key, owner=owner, content=content)
        if first is not None and first[0] != content:
            with pytest.raises(KeyReused):
                self.stores.jobs.replay(request)
            return
        accepted = self.stores.jobs.replay(request)
        assert (accepted and accepted.job_id) == (first and first[1])

    # Dispatchers

    @precondition(lambda self: self.model.in_state(JobState.QUEUED))
    @rule(dispatcher=st.sampled_from(["d0", "d1"]), limit=st.integers(1, 3), fault=faults)
    def claim(self, dispatcher, limit, fault):
        # The order of the queue must depend only on the sequence of calls, not on random backoffs.
        self.stores.connection.execute("UPDATE job SET available_at = created_at WHERE state = 'queued'")
        queued = self.model.queue()
        happened, claims = self.call(fault, lambda: self.stores.jobs.claim(dispatcher, limit))
        if not happened:
            return
        rows = self.stores.connection.execute("SELECT id FROM job WHERE state = 'running'").fetchall()
        taken = [job for job in queued if (job.id,) in rows]
        assert taken == queued[:limit]
        for job in taken:
            job.claim(dispatcher)
        for claimed in sorted(claims or [], key=lambda claimed: claimed.id):  # Postgres returns claims in any order
            job = self.model.jobs[claimed.id]
            assert (job in taken, claimed.attempt) == (True, job.attempt)
            reusable = {key: artifact.id for key, artifact in claimed.reusable.items()}
            assert reusable == {
                step.key: found.id
                for step in job.steps.values()
                if step.state in OPEN and (found := self.model.artifacts.get((job.owner, step.key))) and not found.lost
            }
            self.holds.append(Hold(job, claimed.attempt, reusable))

    @precondition(lambda self: self.holds)
    @rule(
        pick=picks, events=event_lists, numbered=st.booleans(), settle=st.booleans(), twice=st.booleans(), fault=faults,
    )  # fmt: skip
    def work(self, pick, events, *, numbered, settle, twice, fault):
        hold = _one(self.holds, pick)
        self._record(hold, events, numbered=numbered, settle=settle, fault=fault)
        if twice and hold.last:
            self._write(hold, *hold.last, fault=None)

    @precondition(lambda self: len(self.holds) + len(self.zombies) > 1)
    @rule(
        first=picks, second=picks, events=event_lists, more=event_lists, settle=st.booleans(), fault=faults,
    )  # fmt: skip
    def work_together(self, first, second, events, more, *, settle, fault):
        """Write batches of two attempts in one call. Perhaps one of them or both have lost their lease."""
        holds = self.holds + self.zombies
        one = _one(holds, first)
        other = _one([hold for hold in holds if hold is not one], second)
        writes = [
            Write(hold, self._outcomes(hold, picked), hold.batch + 1, settle)
            for hold, picked in ((one, events), (other, more))
        ]
        self._write_together(writes, fault=fault)

    @precondition(lambda self: self._current())
    @rule(pick=picks, which=picks, numbered=st.booleans(), settle=st.booleans())
    def fail_permanently(self, pick, which, *, numbered, settle):
        hold = _one(self._current(), pick)
        step = _one(list(hold.job.steps.values()), which)
        outcomes = [Started(step.name), Failed(step.name, CorruptImage())] if step.state in OPEN else []
        self._write(hold, outcomes, hold.batch + 1 if numbered else None, settle, fault=None)

    @precondition(lambda self: self._current())
    @rule(pick=picks)
    def complete(self, pick):
        hold = _one(self._current(), pick)
        steps = [step for step in hold.job.steps.values() if step.state in OPEN]
        outcomes = [
            outcome for step in steps for outcome in (Started(step.name), Succeeded(step.name, _stored(step), 1))
        ]
        self._write(hold, outcomes, hold.batch + 1, True, fault=None)  # noqa: FBT003

    @precondition(lambda self: self._current())
    @rule(pick=picks, crashed=st.booleans(), events=event_lists, numbered=st.booleans(), settle=st.booleans())
    def overtake(self, pick, events, *, crashed, numbered, settle):
        """Let d1 take over a job that another dispatcher runs. Then let the other dispatcher write without a lease."""
        hold = _one(self._current(), pick)
        if crashed:
            self._set(hold.job, "lease_until")
            hold.job.lease_over = True
            self.rescue(None, None)
        else:
            self.return_to_queue(None, None)
        self.claim("d1", 3, None)
        self._record(hold, events, numbered=numbered, settle=settle, fault=None)

    def _current(self) -> list[Hold]:
        """Return the claims whose lease is not lost."""
        running = self.model.in_state(JobState.RUNNING)
        return [hold for hold in self.holds if hold.job in running and hold.job.attempt == hold.attempt]

    @precondition(lambda self: self.zombies)
    @rule(pick=picks, events=event_lists, numbered=st.booleans(), settle=st.booleans())
    def work_of_a_zombie(self, pick, events, *, numbered, settle):
        self._record(_one(self.zombies, pick), events, numbered=numbered, settle=settle, fault=None)

    @precondition(lambda self: any(hold.last for hold in self.holds + self.zombies))
    @rule(pick=picks)
    def repeat(self, pick):
        """Write the last batch again, as if its commit had not been confirmed."""
        hold = _one([hold for hold in self.holds + self.zombies if hold.last], pick)
        self._write(hold, *hold.last, fault=None)

    def _record(self, hold: Hold, events: list[tuple[str, int]], *, numbered: bool, settle: bool, fault: str | None):
        self._write(hold, self._outcomes(hold, events), hold.batch + 1 if numbered else None, settle, fault=fault)

    def _outcomes(self, hold: Hold, events: list[tuple[str, int]]) -> list[Outcome]:
        """Return outcomes that a dispatcher could report for these events."""
        outcomes: list[Outcome] = []
        for event, pick in events:
            step = _one(list(hold.job.steps.values()), pick)
            failed = {outcome.step for outcome in outcomes if isinstance(outcome, Failed | Crashed)}
            match event:
                case "begin":
                    outcomes.append(Started(step.name))
                case "done" if step.state in OPEN and not failed.intersection(_inputs_of(hold.job, step)):
                    outcomes += [Started(step.name), Succeeded(step.name, _stored(step), 1)]
                case "cached":
                    outcomes.append(Cached(step.name, hold.reusable.get(step.key)))
                case "again" | "outage" | "bad" if step.state in OPEN:
                    outcomes.append(Failed(step.name, ERRORS[event](), 1))
                case "crashed" if step.state in OPEN:
                    outcomes.append(Crashed(step.name))
        return _one_result_each(outcomes)

    def _write(self, hold: Hold, outcomes: list[Outcome], batch: int | None, settle: bool, *, fault: str | None):  # noqa: FBT001
        self._write_together([Write(hold, outcomes, batch, settle)], fault=fault)

    def _write_together(self, writes: list[Write], *, fault: str | None) -> None:
        """Write batches of different attempts in one call."""
        new = [self._is_new(write.hold, write.batch) for write in writes]
        repeated = [self._is_repeated(write.hold, write.batch) for write in writes]
        batches = [
            Batch(write.hold.job.id, write.hold.attempt, tuple(write.outcomes), write.batch, write.settle)
            for write in writes
        ]
        happened, results = self.call(fault, lambda: self.stores.jobs.record(batches))
        if len(writes) > 1 and results is None:
            # The call may be several transactions, of which one has failed. A dispatcher repeats the whole call.
            happened, results = self.call(None, lambda: self.stores.jobs.record(batches))
        if not happened:
            return
        for write, is_new, is_repeated, result in zip(
            writes, new, repeated, results or [None] * len(writes), strict=True
        ):
            if is_new or is_repeated:
                self._after_write(write, result, is_new=is_new)
            else:
                assert result is None or isinstance(result, LeaseLost)
                self._leave(write.hold)

    def _after_write(self, write: Write, result: JobState | None, *, is_new: bool) -> None:
        hold, job = write.hold, write.hold.job
        if is_new:
            self._apply(hold, write.outcomes, settle=write.settle)
        if write.batch is not None:
            hold.batch = max(hold.batch, write.batch)
            hold.last = (write.outcomes, write.batch, write.settle)
            job.written = max(job.written, write.batch)
        assert result in (None, job.state)
        if job.state is not JobState.RUNNING:
            self._leave(hold)

    def _is_new(self, hold: Hold, batch: int | None) -> bool:
        """Return whether the store must write this batch."""
        job = hold.job
        current = job.id in self.model.jobs and job.attempt == hold.attempt and job.state is JobState.RUNNING
        return current and (batch is None or batch > job.written)

    def _is_repeated(self, hold: Hold, batch: int | None) -> bool:
        """Return whether the store has already written this batch. Such a batch changes nothing and raises nothing."""
        job = hold.job
        current = job.id in self.model.jobs and job.attempt == hold.attempt and job.state is not JobState.CANCELLED
        return current and batch is not None and batch <= job.written

    def _leave(self, hold: Hold) -> None:
        if hold in self.holds:
            self.holds.remove(hold)
            self.zombies.append(hold)

    def _apply(self, hold: Hold, outcomes: list[Outcome], *, settle: bool) -> None:
        for outcome in outcomes:
            self._apply_one(hold.job, outcome)
        if settle:
            hold.job.settle()
        else:
            hold.job.lease_over = False

    def _apply_one(self, job: ModelJob, outcome: Outcome) -> None:
        step = job.steps[outcome.step]
        match outcome:
            case Started():
                job.begin(step)
            case Succeeded(stored=stored):
                step.state, step.file = StepState.SUCCEEDED, stored is not None
                if stored is not None:
                    self.model.artifacts.setdefault((job.owner, step.key), ModelArtifact()).lost = False
            case Cached(artifact_id=artifact_id):
                if artifact_id is None or self.model.has_artifact(job.owner, step.key, artifact_id):
                    job.take_from_cache(step, file=artifact_id is not None)
            case Failed(error=error):
                step.failures += not error.outage
                job.fail(step, again=error.retryable and (error.outage or step.failures < MAX_ATTEMPTS))
            case Crashed():
                step.crashes += 1
                job.fail(step, again=step.crashes < MAX_CRASHES)

    @precondition(lambda self: self.holds)
    @rule(fault=faults)
    def renew(self, fault):
        held = {(hold.job.id, hold.attempt): hold.job for hold in self.holds + self.zombies}
        happened, kept = self.call(fault, lambda: self.stores.jobs.renew(list(held)))
        current = {
            (job_id, attempt)
            for (job_id, attempt), job in held.items()
            if job_id in self.model.jobs and (job.state, job.attempt) == (JobState.RUNNING, attempt)
        }
        assert kept is None or kept == current
        for job_id, _ in current if happened else ():
            self.model.jobs[job_id].lease_over = False

    @precondition(lambda self: self.holds)
    @rule()
    def crash(self):
        """Let all dispatchers die."""
        self.zombies += self.holds
        self.holds = []

    @precondition(lambda self: self.model.in_state(JobState.RUNNING))
    @rule(dispatcher=st.sampled_from([None, "d0", "d1"]), fault=faults)
    def return_to_queue(self, dispatcher, fault):
        held = [job for job in self.model.in_state(JobState.RUNNING) if dispatcher in (None, job.dispatcher)]
        happened, back = self.call(fault, lambda: self.stores.jobs.return_to_queue(dispatcher))
        assert back is None or sorted(back) == sorted(job.id for job in held)
        for job in held if happened else ():
            job.requeue()

    # The sweeper

    @precondition(lambda self: any(not job.lease_over for job in self.model.in_state(JobState.RUNNING)))
    @rule(pick=picks)
    def end_lease(self, pick):
        job = _one([job for job in self.model.in_state(JobState.RUNNING) if not job.lease_over], pick)
        self._set(job, "lease_until")
        job.lease_over = True

    @precondition(lambda self: self.model.in_state(JobState.RUNNING))
    @rule(dispatcher=st.sampled_from([None, None, "d0", "d1"]), fault=faults)
    def rescue(self, dispatcher, fault):
        running = self.model.in_state(JobState.RUNNING)
        lost = [job for job in running if (job.lease_over if dispatcher is None else job.dispatcher == dispatcher)]
        happened, back = self.call(fault, lambda: self.stores.jobs.rescue(dispatcher))
        assert back is None or sorted(back) == sorted(job.id for job in lost)
        for job in lost if happened else ():
            job.rescue(MAX_CRASHES)

    # Owners

    @precondition(lambda self: self.model.jobs)
    @rule(pick=picks, stranger=st.sampled_from([False, False, False, True]), fault=faults)
    def cancel(self, pick, *, stranger, fault):
        job = self._any_job(pick)
        owner = "stranger" if stranger else job.owner
        refusal = NotFound if owner != job.owner else JobEnded
        if owner != job.owner or (job.ended and job.state is not JobState.CANCELLED):
            with pytest.raises(refusal):
                self.stores.jobs.cancel(owner, job.id)
            return
        happened, view = self.call(fault, lambda: self.stores.jobs.cancel(owner, job.id))
        assert view is None or view.job.state == JobState.CANCELLED
        if happened and not job.ended:
            job.cancel()

    @precondition(lambda self: self.model.letters)
    @rule(pick=picks, owner=owners, by=st.sampled_from(["id", "id", "job", "all"]), fault=faults)
    def request_redrive(self, pick, owner, by, fault):
        self._decide(pick, owner, by, fault, self.stores.letters.request_redrive, DeadLetterState.REDRIVING)

    @precondition(lambda self: self.model.letters)
    @rule(pick=picks, owner=owners, by=st.sampled_from(["id", "id", "job", "all"]), fault=faults)
    def discard(self, pick, owner, by, fault):
        self._decide(pick, owner, by, fault, self.stores.letters.discard, DeadLetterState.DISCARDED)

    def _decide(self, pick: int, owner: str, by: str, fault: str | None, call: Callable, to: DeadLetterState):
        selection, letters = self._select(pick, owner, by)
        if selection.id is not None and not any(letter.open for letter in letters):
            with pytest.raises(DeadLetterClosed if letters else NotFound):
                call(owner, selection)
            return
        found = [letter for letter in letters if to in DEAD_LETTER_MOVES[letter.state]]
        happened, result = self.call(fault, lambda: call(owner, selection))
        number = len(result) if isinstance(result, list) else result
        assert number in (None, len(found))
        for letter in found if happened else ():
            letter.state = to

    def _select(self, pick: int, owner: str, by: str) -> tuple[DeadLetterSelection, list[ModelLetter]]:
        """Return a selection by id, by job or of all letters, and the owner's letters that the selection matches."""
        selection, letters = DeadLetterSelection(), self.model.letters
        if by == "id" and letters:
            letters = [_one(letters, pick)]
            selection = DeadLetterSelection(id=letters[0].id)
        elif by == "job":
            job = self._any_job(pick)
            letters, selection = job.letters, DeadLetterSelection(job=job.id)
        return selection, [letter for letter in letters if letter.job.owner == owner]

    @precondition(lambda self: self.model.letters)
    @rule(pick=picks, fault=faults)
    def redrive(self, pick, fault):
        requested = [letter for letter in self.model.letters if letter.state is DeadLetterState.REDRIVING]
        assert set(self.stores.letters.pending_redrives()) == {letter.id for letter in requested}
        letter = _one(requested or self.model.letters, pick)
        happened, result = self.call(fault, lambda: self.stores.letters.redrive(letter.id))
        number = letter.job.redrive() if happened else 0
        assert result == (Redriven(letter.job.id, number) if number and fault is None else None)

    @precondition(lambda self: self.model.letters)
    @rule(pick=picks, owner=owners, fault=faults)
    def retry(self, pick, owner, fault):
        job = _one(self.model.letters, pick).job
        mine = [letter for letter in job.letters if letter.state is DeadLetterState.WAITING and owner == job.owner]
        happened, result = self.call(fault, lambda: self.stores.letters.retry(owner, job.id))
        for letter in mine if happened else ():
            letter.state = DeadLetterState.REDRIVING
        number = job.redrive() if happened and owner == job.owner else 0
        assert result == (Redriven(job.id, number) if number and fault is None else None)

    # Retention

    @precondition(lambda self: any(job.ended for job in self.model.jobs.values()))
    @rule(pick=picks, fault=faults)
    def expire(self, pick, fault):
        job = _one([job for job in self.model.jobs.values() if job.ended], pick)
        self._set(job, "expires_at")
        job.due = True
        due = [job for job in self.model.jobs.values() if job.due and job.ended and job.state is not JobState.EXPIRED]
        due = [job for job in due if not job.open_letters()]
        happened, keys = self.call(fault, self.stores.retention.expire_jobs)
        assert keys is None or len(keys) == len(due)
        for job in due if happened else ():
            job.expire()

    @precondition(lambda self: self.model.artifacts)
    @rule(fault=faults)
    def drop_artifacts(self, fault):
        unused = self.model.artifacts.keys() - self.model.referenced()
        happened, keys = self.call(fault, self.stores.retention.drop_artifacts)
        assert keys is None or len(keys) == len(unused)
        for key in unused if happened else ():
            del self.model.artifacts[key]

    @precondition(lambda self: self.model.in_state(JobState.EXPIRED))
    @rule(fault=faults)
    def delete_expired_jobs(self, fault):
        old = self.model.in_state(JobState.EXPIRED)
        happened, number = self.call(fault, lambda: self.stores.retention.delete_expired_jobs(timedelta()))
        assert number in (None, len(old))
        for job in old if happened else ():
            del self.model.jobs[job.id]
            self.zombies = [hold for hold in self.zombies if hold.job is not job or hold.attempt == job.attempt]
            self.model.responses = {key: first for key, first in self.model.responses.items() if first[1] != job.id}

    @precondition(lambda self: self.model.artifacts)
    @rule(pick=picks, lost=st.booleans())
    def lose(self, pick, *, lost):
        (owner, key), artifact = _one(list(self.model.artifacts.items()), pick)
        query = "SELECT blob_key FROM artifact WHERE owner = %s AND step_key = %s"
        ((blob,),) = self.stores.connection.execute(query, [owner, key]).fetchall()
        mark = self.stores.retention.mark_lost if lost else self.stores.retention.mark_found
        mark(blob)
        artifact.lost = lost

    def _any_job(self, pick: int) -> ModelJob:
        return _one(list(self.model.jobs.values()), pick)

    def _set(self, job: ModelJob, column: str) -> None:
        self.stores.connection.execute(f"UPDATE job SET {column} = now() - interval '1 second' WHERE id = %s", [job.id])

    # Invariants

    @invariant()
    def the_database_agrees_with_the_model(self):
        ((text,),) = self.stores.connection.execute(EVERYTHING).fetchall()
        found = json.loads(text)
        self._compare_artifacts(found["artifacts"])
        self._compare_jobs(found["jobs"])
        self._compare_steps(found["steps"])
        self._compare_letters(found["letters"], found["failures"])
        events = group((uuid.UUID(job_id), event) for job_id, event in found["deliveries"])
        ends = {job.id: [JOB_EVENTS[state] for state in job.ends] for job in self.model.jobs.values()}
        assert events == {job_id: expected for job_id, expected in ends.items() if expected}
        responses = {(owner, key): uuid.UUID(job_id) for owner, key, job_id in found["responses"]}
        assert responses == {scope: job_id for scope, (_, job_id) in self.model.responses.items()}
        self._compare_versions(found)

    def _compare_artifacts(self, rows: list[list]) -> None:
        assert {(owner, key): lost for owner, key, _, lost in rows} == {
            key: artifact.lost for key, artifact in self.model.artifacts.items()
        }
        for owner, key, artifact_id, _ in rows:
            self.model.artifacts[owner, key].id = uuid.UUID(artifact_id)

    def _compare_jobs(self, rows: list[list]) -> None:
        assert len(rows) == len(self.model.jobs)
        for job_id, state, attempt, written, crashes, leased, dispatched, finished, *_ in rows:
            job = self.model.jobs[uuid.UUID(job_id)]
            assert (state, attempt, written, crashes) == (job.state, job.attempt, job.written, job.crashes)
            assert leased == (state == JobState.RUNNING)
            assert dispatched or state != JobState.RUNNING
            assert finished == job.ended

    def _compare_steps(self, rows: list[list]) -> None:
        for job_id, name, state, attempt, failures, crashes, artifact in rows:
            job = self.model.jobs[uuid.UUID(job_id)]
            step = job.steps[name]
            assert (state, attempt, failures, crashes) == (step.state, step.attempt, step.failures, step.crashes)
            assert artifact == ([job.owner, step.key] if step.file else None)
            assert not (job.ended and state in OPEN)
            if state == StepState.FAILED:
                (*_, last) = [letter for letter in job.letters if letter.step == name]
                assert last.attempt >= step.attempt
                assert last.state is not DeadLetterState.REDRIVEN

    def _compare_letters(self, rows: list[list], failures: list[list]) -> None:
        model = {letter: [] for letter in ((job.id, step) for job in self.model.jobs.values() for step in job.steps)}
        for letter in self.model.letters:
            model[letter.job.id, letter.step].append(letter)
        assert len(rows) == len(self.model.letters)
        for letter_id, owner, job_id, step, attempt, state in rows:
            letter = model[uuid.UUID(job_id), step].pop(0)
            assert (owner, attempt, state) == (letter.job.owner, letter.attempt, letter.state)
            letter.id = uuid.UUID(letter_id)
            assert not (letter.open and letter.job.state in (JobState.CANCELLED, JobState.EXPIRED))
        events = Counter({(uuid.UUID(job_id), step): number for job_id, step, number in failures})
        assert events == Counter((letter.job.id, letter.step) for letter in self.model.letters)

    def _compare_versions(self, found: dict[str, list]) -> None:
        for job_id, state, *_, version in found["jobs"]:
            content = [state, [row[2:] for row in found["steps"] if row[0] == job_id]]
            before = self.seen.get(uuid.UUID(job_id))
            assert before is None or version > before.version or (version, content) == (before.version, before.content)
            self.seen[uuid.UUID(job_id)] = Seen(version, content)


def _one(things: list[Any], pick: int) -> Any:
    return things[pick % len(things)]


def _inputs_of(job: ModelJob, step: ModelStep) -> set[str]:
    """Return the names of all steps that a step reads, directly or through other steps."""
    inputs = [job.steps[name] for name in step.inputs if name in job.steps]
    return {found for read in inputs for found in (read.name, *_inputs_of(job, read))}


def _stored(step: ModelStep) -> Stored | None:
    if step.name == "t":  # the result of step t is only pixels, so it has no artifact
        return None
    return Stored(step.key, f"artifacts/{uuid.uuid4().hex}", "image/png", 9, "cd" * 32)


def _one_result_each(outcomes: list[Outcome]) -> list[Outcome]:
    """Keep only outcomes that one converter can report: a step starts, and then has one result."""
    ended: set[str] = set()
    possible = []
    for outcome in outcomes:
        if outcome.step not in ended:
            possible.append(outcome)
        if not isinstance(outcome, Started):
            ended.add(outcome.step)
    return possible


EVERYTHING = """
SELECT json_build_object(
    'jobs', (SELECT coalesce(json_agg(json_build_array(
        id, state, attempt, written, crashes, lease_until IS NOT NULL, dispatcher IS NOT NULL,
        finished_at IS NOT NULL, version)), '[]') FROM job),
    'steps', (SELECT coalesce(json_agg(json_build_array(
        job_id, name, state, step.attempt, failures, step.crashes,
        CASE WHEN a.id IS NOT NULL THEN json_build_array(a.owner, a.step_key)
             WHEN artifact_id IS NOT NULL THEN '"dangling"'::json END) ORDER BY job_id, position), '[]')
        FROM step LEFT JOIN artifact a ON a.id = artifact_id),
    'letters', (SELECT coalesce(json_agg(json_build_array(
        id, owner, job_id, step, attempt, state) ORDER BY id), '[]') FROM dead_letter),
    'failures', (SELECT coalesce(json_agg(json_build_array(job_id, step, number)), '[]') FROM (
        SELECT job_id, step, count(*) AS number FROM step_event WHERE what = 'buried' GROUP BY 1, 2) AS failures),
    'artifacts', (SELECT coalesce(json_agg(json_build_array(
        owner, step_key, id, lost_at IS NOT NULL)), '[]') FROM artifact),
    'responses', (SELECT coalesce(json_agg(json_build_array(owner, key, job_id)), '[]') FROM idempotency),
    'deliveries', (SELECT coalesce(json_agg(json_build_array(job_id, event) ORDER BY id), '[]') FROM delivery)
)::text
"""

NEVER_DECREASES = """
CREATE FUNCTION never_decreases() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    RAISE EXCEPTION 'an attempt decreased from % to %', OLD.attempt, NEW.attempt;
END $$;
CREATE TRIGGER never_decreases BEFORE UPDATE ON job FOR EACH ROW
    WHEN (NEW.attempt < OLD.attempt) EXECUTE FUNCTION never_decreases();
CREATE TRIGGER never_decreases BEFORE UPDATE ON step FOR EACH ROW
    WHEN (NEW.attempt < OLD.attempt) EXECUTE FUNCTION never_decreases();
"""


@pytest.fixture
def stores(settings: Settings, fresh_url: str) -> Iterator[Stores]:
    """The stores on a new database. Triggers refuse every move that states.py does not allow."""
    migrate.upgrade(fresh_url)
    with psycopg.connect(fresh_url, autocommit=True) as connection:
        # The database is deleted after the test, so its transactions need not survive a crash of the server.
        connection.execute(f"ALTER DATABASE {connection.info.dbname} SET synchronous_commit = off")
    limits = {"max_attempts": MAX_ATTEMPTS, "max_crashes": MAX_CRASHES, "lease": timedelta(hours=1)}
    settings = settings.model_copy(update={"database_url": SecretStr(fresh_url), **limits})
    database = Unreliable(settings, pool_size=1)
    with psycopg.connect(fresh_url, autocommit=True) as connection:
        state_guards.install(connection)
        connection.execute(NEVER_DECREASES)
        yield Stores(
            database, JobStore(database, settings), DeadLetterStore(database), RetentionStore(database), connection,
        )  # fmt: skip
    database.close()


@pytest.mark.parametrize("part", range(-(-EXAMPLES // EXAMPLES_PER_TEST)))
def test_the_stores_agree_with_the_model_after_every_sequence_of_calls(stores, part):  # noqa: ARG001
    run_state_machine_as_test(
        lambda: Machine(stores),
        settings=hypothesis.settings(
            max_examples=min(EXAMPLES, EXAMPLES_PER_TEST),
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(hypothesis.HealthCheck),
            print_blob=True,
        ),
    )
