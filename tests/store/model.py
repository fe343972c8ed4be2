"""A model of the stores: plain objects in one process, without failures.

The model does what the documents promise, and uses no code of the stores. test_job_store_machine.py compares the model
with the stores after each call.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field

from pixtools.states import DeadLetterState, JobState, StepState

Q, R = JobState.QUEUED, JobState.RUNNING
WAITING, RUNNING = StepState.WAITING, StepState.RUNNING
OPEN = (WAITING, RUNNING)
DONE = (StepState.SUCCEEDED, StepState.CACHED)


@dataclass
class ModelLetter:
    """A dead letter."""

    job: ModelJob
    step: str
    attempt: int
    state: DeadLetterState = DeadLetterState.WAITING
    id: uuid.UUID | None = None  # unknown until the test reads it from the database

    @property
    def open(self) -> bool:
        return self.state in (DeadLetterState.WAITING, DeadLetterState.REDRIVING)


@dataclass
class ModelStep:
    """A step. `file` says whether the step has an artifact."""

    name: str
    key: str
    inputs: tuple[str, ...]
    state: StepState = WAITING
    attempt: int = 0
    failures: int = 0
    crashes: int = 0
    file: bool = False


@dataclass
class ModelArtifact:
    """An artifact. `lost` says whether the blob is missing."""

    lost: bool = False
    id: uuid.UUID | None = None  # unknown until the test reads it from the database


@dataclass
class ModelJob:
    """A job, with a method for each move that the stores can make. A move is a change of a state."""

    id: uuid.UUID
    owner: str
    steps: dict[str, ModelStep]  # in running order
    state: JobState = Q
    attempt: int = 0
    written: int = 0
    crashes: int = 0
    dispatcher: str | None = None
    lease_over: bool = False  # the lease has expired
    due: bool = False  # the retention is over
    letters: list[ModelLetter] = field(default_factory=list)  # oldest first
    ends: list[JobState] = field(default_factory=list)  # one event for each

    @property
    def ended(self) -> bool:
        return self.state not in (Q, R)

    def open_letters(self) -> list[ModelLetter]:
        return [letter for letter in self.letters if letter.open]

    # Moves of the job

    def claim(self, dispatcher: str) -> None:
        self.state, self.dispatcher = R, dispatcher
        self.attempt += 1
        self.written, self.lease_over = 0, False

    def requeue(self) -> None:
        self.state, self.lease_over = Q, False
        for step in self.steps.values():
            if step.state is RUNNING:
                step.state = WAITING

    def end(self, state: JobState) -> None:
        self.state, self.lease_over, self.due = state, False, False
        self.ends.append(state)

    def settle(self) -> None:
        states = [step.state for step in self.steps.values()]
        if any(state in OPEN for state in states):
            self.requeue()
        elif all(state in DONE for state in states):
            self.end(JobState.SUCCEEDED)
        else:
            some = any(step.file for step in self.steps.values())
            self.end(JobState.PARTIAL if some else JobState.FAILED)

    def rescue(self, max_crashes: int) -> None:
        self.crashes += 1
        if self.crashes < max_crashes:
            self.requeue()
            return
        for step in self.steps.values():
            self.fail_permanently(step)
        self.settle()

    def cancel(self) -> None:
        for step in self.steps.values():
            if step.state in OPEN:
                step.state = StepState.CANCELLED
        self.discard(self.letters)
        self.end(JobState.CANCELLED)

    def expire(self) -> None:
        self.state = JobState.EXPIRED
        for step in self.steps.values():
            step.file = False

    # Moves of a step

    def begin(self, step: ModelStep) -> None:
        if step.state is WAITING:
            step.state, step.attempt = RUNNING, self.attempt

    def take_from_cache(self, step: ModelStep, *, file: bool) -> None:
        if step.state is WAITING:
            step.state, step.attempt, step.file = StepState.CACHED, self.attempt, file

    def fail(self, step: ModelStep, *, again: bool) -> None:
        if again and step.state in OPEN:
            step.state = WAITING
        elif not again:
            self.fail_permanently(step)

    def fail_permanently(self, step: ModelStep) -> None:
        if step.state not in OPEN:
            return
        step.state = StepState.FAILED
        self.letters.append(ModelLetter(self, step.name, self.attempt))
        without_result = {step.name}
        for reader in self.steps.values():
            if reader.state is WAITING and without_result.intersection(reader.inputs):
                reader.state = StepState.SKIPPED
                without_result.add(reader.name)

    # Moves of a dead letter

    def redrive(self) -> int:
        """Redrive all letters whose redrive was requested. Return their number."""
        letters = [letter for letter in self.letters if letter.state is DeadLetterState.REDRIVING]
        if self.state in (JobState.CANCELLED, JobState.EXPIRED):
            self.discard(letters)
            return 0
        for letter in letters:
            letter.state = DeadLetterState.REDRIVEN
            self.revive(letter)
        if letters and self.ended:
            self.state, self.crashes = Q, 0
        return len(letters)

    def revive(self, letter: ModelLetter) -> None:
        step = self.steps[letter.step]
        assert step.state is StepState.FAILED  # because the step of an open letter stays failed
        step.state, step.failures, step.crashes = WAITING, 0, 0
        for reader in self.steps.values():
            inputs = [self.steps[name].state for name in reader.inputs if name in self.steps]
            if reader.state is StepState.SKIPPED and all(state in (*OPEN, *DONE) for state in inputs):
                reader.state = WAITING

    @staticmethod
    def discard(letters: list[ModelLetter]) -> int:
        found = [letter for letter in letters if letter.open]
        for letter in found:
            letter.state = DeadLetterState.DISCARDED
        return len(found)
