"""Any order of events, with crashes and unheard commits between them: the stores against a model of what is promised.

`PIXTOOLS_EXAMPLES` says how many histories are tried.
"""

from __future__ import annotations

import json
import os
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import hypothesis
import psycopg
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from jobs import ANN, BOB, asked, new_job, render
from model import OPEN, ModelArtifact, ModelJob, ModelLetter, ModelStep
from pydantic import SecretStr
from sqlmodel import Session

from pixtools.database import migrate
from pixtools.database.connection import Database
from pixtools.database.dead_letter_store import DeadLetterStore, Redriven, Selection
from pixtools.database.job_store import JobStore
from pixtools.database.retention_store import RetentionStore
from pixtools.errors import (
    CorruptImage,
    DatabaseDown,
    JobEnded,
    KeyReused,
    LeaseLost,
    LetterClosed,
    NotFound,
    StorageDown,
    StorageRefused,
)
from pixtools.jobs.outcomes import Began, Cached, Crashed, Done, Failed, Outcome, Stored
from pixtools.settings import Settings
from pixtools.states import JOB_MOVES, LETTER_MOVES, STEP_MOVES, JobState, LetterState, StepState

EXAMPLES = int(os.environ.get("PIXTOOLS_EXAMPLES", "100"))
AT_ONCE = 250  # so that no test takes as long as one that hangs, though it has to find the shortest failure
MAX_ATTEMPTS, MAX_CRASHES = 2, 2  # so that the end of patience is near

GRAPHS: tuple[dict[str, tuple[str, ...]], ...] = (
    {"a": ("source",)},
    {"a": ("source",), "b": ("source",)},
    {"t": ("source",), "a": ("t",), "b": ("t",), "z": ("a", "b")},
)


class Unreliable(Database):
    """A database that may keep quiet about the next transaction: refused before the commit, or unheard after it."""

    fault: str | None = None

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        fault, self.fault = self.fault, None
        with super().transaction() as session:
            yield session
            if fault == "refused":
                raise DatabaseDown(fault)
        if fault == "unheard":
            raise DatabaseDown(fault)


@dataclass
class Stores:
    database: Unreliable
    jobs: JobStore
    letters: DeadLetterStore
    kept: RetentionStore
    eye: psycopg.Connection  # looks into the database, and moves time there


@dataclass
class Hold:
    """What a dispatcher knows of a job that it claimed."""

    job: ModelJob
    attempt: int
    reusable: dict[str, uuid.UUID]
    batch: int = 0
    last: tuple[list[Outcome], int, bool] | None = None  # the batch written last


@dataclass
class Seen:
    version: int
    facts: Any


@dataclass
class Model:
    jobs: dict[uuid.UUID, ModelJob] = field(default_factory=dict)
    artifacts: dict[tuple[str, str], ModelArtifact] = field(default_factory=dict)
    answers: dict[tuple[str, str], tuple[str, uuid.UUID]] = field(default_factory=dict)

    @property
    def letters(self) -> list[ModelLetter]:
        return [letter for job in self.jobs.values() for letter in job.letters]

    def in_state(self, *states: JobState) -> list[ModelJob]:
        return [job for job in self.jobs.values() if job.state in states]

    def referenced(self) -> set[tuple[str, str]]:
        return {(job.owner, step.key) for job in self.jobs.values() for step in job.steps.values() if step.file}


picks = st.integers(0, 11)
faults = st.sampled_from([None, None, None, None, "refused", "unheard"])
owners = st.sampled_from([ANN, ANN, BOB])
deeds = st.sampled_from(["begin", "done", "done", "done", "cached", "again", "outage", "bad", "crashed"])
a_days_work = st.lists(st.tuples(deeds, picks), max_size=5)

ERRORS = {"again": StorageRefused, "outage": StorageDown, "bad": CorruptImage}


class Machine(RuleBasedStateMachine):
    def __init__(self, stores: Stores) -> None:
        super().__init__()
        self.stores = stores
        self.model = Model()
        self.hands: list[Hold] = []  # what living dispatchers hold, or believe to hold
        self.zombies: list[Hold] = []  # what dead ones held, should they come back
        self.seen: dict[uuid.UUID, Seen] = {}
        stores.database.fault = None
        stores.eye.execute("DELETE FROM job")
        stores.eye.execute("DELETE FROM artifact")

    def call(self, fault: str | None, call: Callable[[], Any]) -> tuple[bool, Any]:
        """Say whether the call took effect, and what it answered, None if that went unheard."""
        self.stores.database.fault = fault
        try:
            return True, call()
        except DatabaseDown as error:
            if error.detail != fault:  # for another reason, such as a deadlock
                raise
            return fault == "unheard", None
        finally:
            self.stores.database.fault = None

    # Ingress

    @initialize(graph=st.sampled_from(GRAPHS), shared=st.booleans(), bad=st.booleans(), settle=st.booleans())
    def first(self, graph, *, shared, bad, settle):
        self.submit(ANN, graph, shared=shared, key=None, content="x", fault=None)
        self.claim("d0", 1, None)
        if bad:
            self.give_up(0, 0, numbered=True, settle=settle)

    @precondition(lambda self: len(self.model.in_state(JobState.QUEUED, JobState.RUNNING)) < 2)
    @rule(
        owner=owners, graph=st.sampled_from(GRAPHS), shared=st.booleans(),
        key=st.sampled_from([None, "k1", "k2"]), content=st.sampled_from("xxy"), fault=faults,
    )  # fmt: skip
    def submit(self, owner, graph, *, shared, key, content, fault):
        new = new_job(graph, owner=owner, keys="same" if shared else "")
        request = asked(key, owner=owner, content=content) if key else None
        first = self.model.answers.get((owner, key)) if key else None
        if first is not None and first[0] != content and fault is None:
            with pytest.raises(KeyReused):
                self.stores.jobs.submit(new, request, render)
            return
        happened, accepted = self.call(fault, lambda: self.stores.jobs.submit(new, request, render))
        if first is not None:
            assert accepted is None or (accepted.job_id, accepted.replayed) == (first[1], True)
            return
        assert accepted is None or (accepted.job_id, accepted.replayed) == (new.id, False)
        if happened:
            steps = {step.name: ModelStep(step.name, step.key, step.inputs) for step in new.steps}
            self.model.jobs[new.id] = ModelJob(new.id, owner, steps)
            if key:
                self.model.answers[owner, key] = (content, new.id)

    @precondition(lambda self: self.model.answers)
    @rule(owner=owners, key=st.sampled_from(["k1", "k2"]), content=st.sampled_from("xxy"))
    def replay(self, owner, key, content):
        first = self.model.answers.get((owner, key))
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
        # In the order in which they came: who comes first must not depend on anything but the history.
        self.stores.eye.execute("UPDATE job SET available_at = created_at WHERE state = 'queued'")
        queued = self.model.in_state(JobState.QUEUED)
        happened, claims = self.call(fault, lambda: self.stores.jobs.claim(dispatcher, limit))
        if not happened:
            return
        rows = self.stores.eye.execute("SELECT id FROM job WHERE state = 'running'").fetchall()
        taken = [job for job in queued if (job.id,) in rows]
        assert taken == queued[:limit]
        for job in taken:
            job.claim(dispatcher)
        for claimed in sorted(claims or [], key=lambda claimed: claimed.id):  # Postgres returns them as it found them
            job = self.model.jobs[claimed.id]
            assert (job in taken, claimed.attempt) == (True, job.attempt)
            reusable = {key: artifact.id for key, artifact in claimed.reusable.items()}
            assert reusable == {
                step.key: found.id
                for step in job.steps.values()
                if step.state in OPEN and (found := self.model.artifacts.get((job.owner, step.key))) and not found.lost
            }
            self.hands.append(Hold(job, claimed.attempt, reusable))

    @precondition(lambda self: self.hands)
    @rule(
        pick=picks, deeds=a_days_work, numbered=st.booleans(), settle=st.booleans(), twice=st.booleans(), fault=faults,
    )  # fmt: skip
    def work(self, pick, deeds, *, numbered, settle, twice, fault):
        hold = _one(self.hands, pick)
        self._record(hold, deeds, numbered=numbered, settle=settle, fault=fault)
        if twice and hold.last:
            self._write(hold, *hold.last, fault=None)

    @precondition(lambda self: self._current())
    @rule(pick=picks, which=picks, numbered=st.booleans(), settle=st.booleans())
    def give_up(self, pick, which, *, numbered, settle):
        hold = _one(self._current(), pick)
        step = _one(list(hold.job.steps.values()), which)
        outcomes = [Began(step.name), Failed(step.name, CorruptImage())] if step.state in OPEN else []
        self._write(hold, outcomes, hold.batch + 1 if numbered else None, settle, fault=None)

    @precondition(lambda self: self._current())
    @rule(pick=picks)
    def complete(self, pick):
        hold = _one(self._current(), pick)
        steps = [step for step in hold.job.steps.values() if step.state in OPEN]
        outcomes = [outcome for step in steps for outcome in (Began(step.name), Done(step.name, _stored(step), 1))]
        self._write(hold, outcomes, hold.batch + 1, True, fault=None)  # noqa: FBT003

    @precondition(lambda self: self._current())
    @rule(pick=picks, crashed=st.booleans(), deeds=a_days_work, numbered=st.booleans(), settle=st.booleans())
    def overtake(self, pick, deeds, *, crashed, numbered, settle):
        """Have another dispatcher take a job over, and the first go on, which still believes to hold it."""
        hold = _one(self._current(), pick)
        if crashed:
            self._set(hold.job, "lease_until")
            hold.job.lapsed = True
            self.rescue(None, None)
        else:
            self.hand_back(None, None)
        self.claim("d1", 3, None)
        self._record(hold, deeds, numbered=numbered, settle=settle, fault=None)

    def _current(self) -> list[Hold]:
        """Return the holds of living dispatchers that are what they believe to be."""
        running = self.model.in_state(JobState.RUNNING)
        return [hold for hold in self.hands if hold.job in running and hold.job.attempt == hold.attempt]

    @precondition(lambda self: self.zombies)
    @rule(pick=picks, deeds=a_days_work, numbered=st.booleans(), settle=st.booleans())
    def work_of_the_dead(self, pick, deeds, *, numbered, settle):
        self._record(_one(self.zombies, pick), deeds, numbered=numbered, settle=settle, fault=None)

    @precondition(lambda self: any(hold.last for hold in self.hands + self.zombies))
    @rule(pick=picks)
    def repeat(self, pick):
        """Write a batch again, as if its commit had gone unheard."""
        hold = _one([hold for hold in self.hands + self.zombies if hold.last], pick)
        self._write(hold, *hold.last, fault=None)

    def _record(self, hold: Hold, deeds: list[tuple[str, int]], *, numbered: bool, settle: bool, fault: str | None):
        outcomes: list[Outcome] = []
        for deed, pick in deeds:
            step = _one(list(hold.job.steps.values()), pick)
            spoilt = {outcome.step for outcome in outcomes if isinstance(outcome, Failed | Crashed)}
            match deed:
                case "begin":
                    outcomes.append(Began(step.name))
                case "done" if step.state in OPEN and not spoilt.intersection(_above(hold.job, step)):
                    outcomes += [Began(step.name), Done(step.name, _stored(step), 1)]
                case "cached":
                    outcomes.append(Cached(step.name, hold.reusable.get(step.key)))
                case "again" | "outage" | "bad" if step.state in OPEN:
                    outcomes.append(Failed(step.name, ERRORS[deed](), 1))
                case "crashed" if step.state in OPEN:
                    outcomes.append(Crashed(step.name))
        outcomes = _one_end_each(outcomes)
        self._write(hold, outcomes, hold.batch + 1 if numbered else None, settle, fault=fault)

    def _write(self, hold: Hold, outcomes: list[Outcome], batch: int | None, settle: bool, *, fault: str | None):  # noqa: FBT001
        job = hold.job
        mine = job.id in self.model.jobs and job.attempt == hold.attempt
        new = mine and job.state is JobState.RUNNING and (batch is None or batch > job.written)
        again = mine and batch is not None and batch <= job.written and job.state is not JobState.CANCELLED

        def call() -> JobState:
            return self.stores.jobs.record(job.id, hold.attempt, outcomes, batch=batch, settle=settle)

        if not new and not again:
            with pytest.raises(LeaseLost):
                call()
            self._leave(hold)
            return
        happened, answer = self.call(fault, call)
        if not happened:
            return
        if new:
            self._apply(hold, outcomes)
            if settle:
                job.settle()
            else:
                job.lapsed = False
        if batch is not None:
            hold.batch = max(hold.batch, batch)
            hold.last = (outcomes, batch, settle)
            job.written = max(job.written, batch)
        assert answer in (None, job.state)
        if job.state is not JobState.RUNNING:
            self._leave(hold)

    def _leave(self, hold: Hold) -> None:
        if hold in self.hands:
            self.hands.remove(hold)
            self.zombies.append(hold)

    def _apply(self, hold: Hold, outcomes: list[Outcome]) -> None:
        job = hold.job
        for outcome in outcomes:
            step = job.steps[outcome.step]
            match outcome:
                case Began():
                    job.begin(step)
                case Done(stored=stored):
                    step.state, step.file = StepState.SUCCEEDED, stored is not None
                    if stored is not None:
                        self.model.artifacts.setdefault((job.owner, step.key), ModelArtifact()).lost = False
                case Cached(artifact_id=None):
                    job.take_from_cache(step, file=False)
                case Cached(artifact_id=artifact_id):
                    found = self.model.artifacts.get((job.owner, step.key))
                    if found is not None and found.id == artifact_id and not found.lost:
                        job.take_from_cache(step, file=True)
                case Failed(error=error):
                    step.failures += not error.outage
                    job.fail(step, again=error.retryable and (error.outage or step.failures < MAX_ATTEMPTS))
                case Crashed():
                    step.crashes += 1
                    job.fail(step, again=step.crashes < MAX_CRASHES)

    @precondition(lambda self: self.hands)
    @rule(fault=faults)
    def renew(self, fault):
        held = {(hold.job.id, hold.attempt): hold.job for hold in self.hands + self.zombies}
        happened, kept = self.call(fault, lambda: self.stores.jobs.renew(list(held)))
        current = {
            (job_id, attempt)
            for (job_id, attempt), job in held.items()
            if job_id in self.model.jobs and (job.state, job.attempt) == (JobState.RUNNING, attempt)
        }
        assert kept is None or kept == current
        for job_id, _ in current if happened else ():
            self.model.jobs[job_id].lapsed = False

    @precondition(lambda self: self.hands)
    @rule()
    def crash(self):
        """Forget what living dispatchers know."""
        self.zombies += self.hands
        self.hands = []

    @precondition(lambda self: self.model.in_state(JobState.RUNNING))
    @rule(dispatcher=st.sampled_from([None, "d0", "d1"]), fault=faults)
    def hand_back(self, dispatcher, fault):
        theirs = [job for job in self.model.in_state(JobState.RUNNING) if dispatcher in (None, job.dispatcher)]
        happened, back = self.call(fault, lambda: self.stores.jobs.hand_back(dispatcher))
        assert back is None or sorted(back) == sorted(job.id for job in theirs)
        for job in theirs if happened else ():
            job.requeue()

    # The sweeper

    @precondition(lambda self: any(not job.lapsed for job in self.model.in_state(JobState.RUNNING)))
    @rule(pick=picks)
    def lapse(self, pick):
        job = _one([job for job in self.model.in_state(JobState.RUNNING) if not job.lapsed], pick)
        self._set(job, "lease_until")
        job.lapsed = True

    @precondition(lambda self: self.model.in_state(JobState.RUNNING))
    @rule(dispatcher=st.sampled_from([None, None, "d0", "d1"]), fault=faults)
    def rescue(self, dispatcher, fault):
        running = self.model.in_state(JobState.RUNNING)
        lost = [job for job in running if (job.lapsed if dispatcher is None else job.dispatcher == dispatcher)]
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
    def ask_redrive(self, pick, owner, by, fault):
        self._decide(pick, owner, by, fault, self.stores.letters.ask_redrive, LetterState.REDRIVING)

    @precondition(lambda self: self.model.letters)
    @rule(pick=picks, owner=owners, by=st.sampled_from(["id", "id", "job", "all"]), fault=faults)
    def discard(self, pick, owner, by, fault):
        self._decide(pick, owner, by, fault, self.stores.letters.discard, LetterState.DISCARDED)

    def _decide(self, pick: int, owner: str, by: str, fault: str | None, call: Callable, to: LetterState):
        selection, letters = Selection(), self.model.letters
        if by == "id" and letters:
            letters = [_one(letters, pick)]
            selection = Selection(id=letters[0].id)
        elif by == "job":
            job = self._any_job(pick)
            letters, selection = job.letters, Selection(job=job.id)
        letters = [letter for letter in letters if letter.job.owner == owner]
        found = [letter for letter in letters if to in LETTER_MOVES[letter.state]]
        if selection.id is not None and not any(letter.open for letter in letters):
            with pytest.raises(LetterClosed if letters else NotFound):
                call(owner, selection)
            return
        happened, answer = self.call(fault, lambda: call(owner, selection))
        number = len(answer) if isinstance(answer, list) else answer
        assert number in (None, len(found))
        for letter in found if happened else ():
            letter.state = to

    @precondition(lambda self: self.model.letters)
    @rule(pick=picks, fault=faults)
    def redrive(self, pick, fault):
        asked_for = [letter for letter in self.model.letters if letter.state is LetterState.REDRIVING]
        assert set(self.stores.letters.redriving()) == {letter.id for letter in asked_for}
        letter = _one(asked_for or self.model.letters, pick)
        happened, answer = self.call(fault, lambda: self.stores.letters.redrive(letter.id))
        number = letter.job.redrive() if happened else 0
        assert answer == (Redriven(letter.job.id, number) if number and fault is None else None)

    @precondition(lambda self: self.model.letters)
    @rule(pick=picks, owner=owners, fault=faults)
    def retry(self, pick, owner, fault):
        job = _one(self.model.letters, pick).job
        mine = [letter for letter in job.letters if letter.state is LetterState.WAITING and owner == job.owner]
        happened, answer = self.call(fault, lambda: self.stores.letters.retry(owner, job.id))
        for letter in mine if happened else ():
            letter.state = LetterState.REDRIVING
        number = job.redrive() if happened and owner == job.owner else 0
        assert answer == (Redriven(job.id, number) if number and fault is None else None)

    # What is kept, and for how long

    @precondition(lambda self: any(job.ended for job in self.model.jobs.values()))
    @rule(pick=picks, fault=faults)
    def expire(self, pick, fault):
        job = _one([job for job in self.model.jobs.values() if job.ended], pick)
        self._set(job, "expires_at")
        job.due = True
        due = [job for job in self.model.jobs.values() if job.due and job.ended and job.state is not JobState.EXPIRED]
        due = [job for job in due if not job.open_letters()]
        happened, keys = self.call(fault, self.stores.kept.expire_jobs)
        assert keys is None or len(keys) == len(due)
        for job in due if happened else ():
            job.expire()

    @precondition(lambda self: self.model.artifacts)
    @rule(fault=faults)
    def drop_artifacts(self, fault):
        unused = self.model.artifacts.keys() - self.model.referenced()
        happened, keys = self.call(fault, self.stores.kept.drop_artifacts)
        assert keys is None or len(keys) == len(unused)
        for key in unused if happened else ():
            del self.model.artifacts[key]

    @precondition(lambda self: self.model.in_state(JobState.EXPIRED))
    @rule(fault=faults)
    def forget_jobs(self, fault):
        old = self.model.in_state(JobState.EXPIRED)
        happened, number = self.call(fault, lambda: self.stores.kept.forget_jobs(timedelta()))
        assert number in (None, len(old))
        for job in old if happened else ():
            del self.model.jobs[job.id]
            self.zombies = [hold for hold in self.zombies if hold.job is not job or hold.attempt == job.attempt]
            self.model.answers = {key: first for key, first in self.model.answers.items() if first[1] != job.id}

    @precondition(lambda self: self.model.artifacts)
    @rule(pick=picks, lost=st.booleans())
    def lose(self, pick, *, lost):
        (owner, key), artifact = _one(list(self.model.artifacts.items()), pick)
        query = "SELECT blob_key FROM artifact WHERE owner = %s AND step_key = %s"
        ((blob,),) = self.stores.eye.execute(query, [owner, key]).fetchall()
        mark = self.stores.kept.mark_lost if lost else self.stores.kept.mark_found
        mark(blob)
        artifact.lost = lost

    def _any_job(self, pick: int) -> ModelJob:
        return _one(list(self.model.jobs.values()), pick)

    def _set(self, job: ModelJob, column: str) -> None:
        self.stores.eye.execute(f"UPDATE job SET {column} = now() - interval '1 second' WHERE id = %s", [job.id])

    # What must hold at any time

    @invariant()
    def the_database_agrees_with_the_model(self):
        ((text,),) = self.stores.eye.execute(EVERYTHING).fetchall()
        found = json.loads(text)
        self._compare_artifacts(found["artifacts"])
        self._compare_jobs(found["jobs"])
        self._compare_steps(found["steps"])
        self._compare_letters(found["letters"], found["buried"])
        answers = {(owner, key): uuid.UUID(job_id) for owner, key, job_id in found["answers"]}
        assert answers == {scope: job_id for scope, (_, job_id) in self.model.answers.items()}
        self._look_for_changes_without_a_version(found)

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
                assert last.state is not LetterState.REDRIVEN

    def _compare_letters(self, rows: list[list], buried: list[list]) -> None:
        model = {letter: [] for letter in ((job.id, step) for job in self.model.jobs.values() for step in job.steps)}
        for letter in self.model.letters:
            model[letter.job.id, letter.step].append(letter)
        assert len(rows) == len(self.model.letters)
        for letter_id, owner, job_id, step, attempt, state in rows:
            letter = model[uuid.UUID(job_id), step].pop(0)
            assert (owner, attempt, state) == (letter.job.owner, letter.attempt, letter.state)
            letter.id = uuid.UUID(letter_id)
            assert not (letter.open and letter.job.state in (JobState.CANCELLED, JobState.EXPIRED))
        events = Counter({(uuid.UUID(job_id), step): number for job_id, step, number in buried})
        assert events == Counter((letter.job.id, letter.step) for letter in self.model.letters)

    def _look_for_changes_without_a_version(self, found: dict[str, list]) -> None:
        for job_id, state, *_, version in found["jobs"]:
            facts = [state, [row[2:] for row in found["steps"] if row[0] == job_id]]
            before = self.seen.get(uuid.UUID(job_id))
            assert before is None or version > before.version or (version, facts) == (before.version, before.facts)
            self.seen[uuid.UUID(job_id)] = Seen(version, facts)


def _one(things: list[Any], pick: int) -> Any:
    return things[pick % len(things)]


def _above(job: ModelJob, step: ModelStep) -> set[str]:
    """Return the names of all steps that a step needs."""
    inputs = [job.steps[name] for name in step.inputs if name in job.steps]
    return {found for read in inputs for found in (read.name, *_above(job, read))}


def _stored(step: ModelStep) -> Stored | None:
    if step.name == "t":  # its pixels pass on
        return None
    return Stored(step.key, f"artifacts/{uuid.uuid4().hex}", "image/png", 9, "cd" * 32)


def _one_end_each(outcomes: list[Outcome]) -> list[Outcome]:
    """Leave what a converter can say of a step: it began, and then one thing came of it."""
    ended: set[str] = set()
    kept = []
    for outcome in outcomes:
        if outcome.step not in ended:
            kept.append(outcome)
        if not isinstance(outcome, Began):
            ended.add(outcome.step)
    return kept


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
    'buried', (SELECT coalesce(json_agg(json_build_array(job_id, step, number)), '[]') FROM (
        SELECT job_id, step, count(*) AS number FROM step_event WHERE what = 'buried' GROUP BY 1, 2) AS buried),
    'artifacts', (SELECT coalesce(json_agg(json_build_array(
        owner, step_key, id, lost_at IS NOT NULL)), '[]') FROM artifact),
    'answers', (SELECT coalesce(json_agg(json_build_array(owner, key, job_id)), '[]') FROM idempotency)
)::text
"""

GUARD = """
CREATE FUNCTION guard_{table}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF NOT OLD.state || ' ' || NEW.state = ANY (ARRAY[{moves}]) THEN
        RAISE EXCEPTION '{table} moved from % to %', OLD.state, NEW.state;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE UPDATE ON {table} FOR EACH ROW
    WHEN (OLD.state <> NEW.state) EXECUTE FUNCTION guard_{table}();
"""

NEVER_LESS = """
CREATE FUNCTION never_less() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    RAISE EXCEPTION 'an attempt went back from % to %', OLD.attempt, NEW.attempt;
END $$;
CREATE TRIGGER never_less BEFORE UPDATE ON job FOR EACH ROW
    WHEN (NEW.attempt < OLD.attempt) EXECUTE FUNCTION never_less();
CREATE TRIGGER never_less BEFORE UPDATE ON step FOR EACH ROW
    WHEN (NEW.attempt < OLD.attempt) EXECUTE FUNCTION never_less();
"""


@pytest.fixture
def stores(settings: Settings, fresh_url: str) -> Iterator[Stores]:
    """The stores on a database of their own, which itself refuses every move that states.py does not allow."""
    migrate.upgrade(fresh_url)
    with psycopg.connect(fresh_url, autocommit=True) as eye:
        eye.execute(f"ALTER DATABASE {eye.info.dbname} SET synchronous_commit = off")  # it is not to outlive the test
    facts = {"max_attempts": MAX_ATTEMPTS, "max_crashes": MAX_CRASHES, "lease": timedelta(hours=1)}
    settings = settings.model_copy(update={"database_url": SecretStr(fresh_url), **facts})
    database = Unreliable(settings, pool_size=1)
    with psycopg.connect(fresh_url, autocommit=True) as eye:
        for table, moves in (("job", JOB_MOVES), ("step", STEP_MOVES), ("dead_letter", LETTER_MOVES)):
            allowed = ", ".join(f"'{state} {after}'" for state in moves for after in moves[state])
            eye.execute(GUARD.format(table=table, moves=allowed))
        eye.execute(NEVER_LESS)
        yield Stores(
            database, JobStore(database, settings), DeadLetterStore(database), RetentionStore(database), eye,
        )  # fmt: skip
    database.close()


@pytest.mark.parametrize("part", range(-(-EXAMPLES // AT_ONCE)))
def test_whatever_happens_in_whatever_order_the_stores_do_what_the_model_does(stores, part):  # noqa: ARG001
    run_state_machine_as_test(
        lambda: Machine(stores),
        settings=hypothesis.settings(
            max_examples=min(EXAMPLES, AT_ONCE),
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(hypothesis.HealthCheck),
            print_blob=True,
        ),
    )
