"""The job store as it should be: a few dictionaries in one process that never dies.

Written from the documents and not from the store's SQL; the state machine compares the two after each step.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field

from pixtools.states import JobState, LetterState, StepState

Q, R = JobState.QUEUED, JobState.RUNNING
WAITING, RUNNING = StepState.WAITING, StepState.RUNNING
OPEN = (WAITING, RUNNING)
DONE = (StepState.SUCCEEDED, StepState.CACHED)


@dataclass
class ModelLetter:
    job: ModelJob
    step: str
    attempt: int
    state: LetterState = LetterState.WAITING
    id: uuid.UUID | None = None  # once it was read

    @property
    def open(self) -> bool:
        return self.state in (LetterState.WAITING, LetterState.REDRIVING)


@dataclass
class ModelStep:
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
    lost: bool = False
    id: uuid.UUID | None = None  # once it was read


@dataclass
class ModelJob:
    id: uuid.UUID
    owner: str
    steps: dict[str, ModelStep]  # in running order
    state: JobState = Q
    attempt: int = 0
    written: int = 0
    crashes: int = 0
    dispatcher: str | None = None
    lapsed: bool = False  # its lease has run out
    due: bool = False  # its results were kept long enough
    letters: list[ModelLetter] = field(default_factory=list)  # in the order in which they came

    @property
    def ended(self) -> bool:
        return self.state not in (Q, R)

    def open_letters(self) -> list[ModelLetter]:
        return [letter for letter in self.letters if letter.open]

    # What moves the job

    def claim(self, dispatcher: str) -> None:
        self.state, self.dispatcher = R, dispatcher
        self.attempt += 1
        self.written, self.lapsed = 0, False

    def requeue(self) -> None:
        self.state, self.lapsed = Q, False
        for step in self.steps.values():
            if step.state is RUNNING:
                step.state = WAITING

    def end(self, state: JobState) -> None:
        self.state, self.lapsed, self.due = state, False, False

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
            self.bury(step)
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

    # What moves a step

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
            self.bury(step)

    def bury(self, step: ModelStep) -> None:
        if step.state not in OPEN:
            return
        step.state = StepState.FAILED
        self.letters.append(ModelLetter(self, step.name, self.attempt))
        gone = {step.name}
        for reader in self.steps.values():
            if reader.state is WAITING and gone.intersection(reader.inputs):
                reader.state = StepState.SKIPPED
                gone.add(reader.name)

    # What moves a dead letter

    def redrive(self) -> int:
        """Redrive all letters that are to be; return how many."""
        letters = [letter for letter in self.letters if letter.state is LetterState.REDRIVING]
        if self.state in (JobState.CANCELLED, JobState.EXPIRED):
            self.discard(letters)
            return 0
        for letter in letters:
            letter.state = LetterState.REDRIVEN
            self.unbury(letter)
        if letters and self.ended:
            self.state, self.crashes = Q, 0
        return len(letters)

    def unbury(self, letter: ModelLetter) -> None:
        step = self.steps[letter.step]
        assert step.state is StepState.FAILED  # or somebody moved a step with an open letter
        step.state, step.failures, step.crashes = WAITING, 0, 0
        for reader in self.steps.values():
            inputs = [self.steps[name].state for name in reader.inputs if name in self.steps]
            if reader.state is StepState.SKIPPED and all(state in (*OPEN, *DONE) for state in inputs):
                reader.state = WAITING

    @staticmethod
    def discard(letters: list[ModelLetter]) -> int:
        found = [letter for letter in letters if letter.open]
        for letter in found:
            letter.state = LetterState.DISCARDED
        return len(found)
