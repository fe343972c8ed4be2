"""The states of jobs, steps and dead letters, and every move that is allowed between them.

moves.py derives the guards of all updates from these tables; nothing else decides what may follow what.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TypeVar


class JobState(StrEnum):
    QUEUED = "queued"  # accepted by ingress, or put back by a retry, a rescue, a hand-over or a redrive
    RUNNING = "running"  # claimed by a dispatcher, whose lease is renewed until the job settles
    SUCCEEDED = "succeeded"  # the dispatcher settled it: every step has its result
    PARTIAL = "partial"  # as FAILED, but some steps have a result
    FAILED = "failed"  # the dispatcher settled it, or the sweeper gave it up: no step has a result
    CANCELLED = "cancelled"  # its owner cancelled it before it settled
    EXPIRED = "expired"  # past its retention: the record stays, the artifacts are gone


class StepState(StrEnum):
    WAITING = "waiting"  # its inputs are not ready, or it is to be tried again
    RUNNING = "running"  # a converter is at it
    SUCCEEDED = "succeeded"  # its result is stored
    CACHED = "cached"  # the same work had been done before: nothing ran
    FAILED = "failed"  # out of attempts, or not worth another; it has a dead letter
    SKIPPED = "skipped"  # a step that it reads failed
    CANCELLED = "cancelled"  # its job was cancelled


class LetterState(StrEnum):
    WAITING = "waiting"  # a step was given up; somebody is to decide
    REDRIVING = "redriving"  # asked for; its turn comes at a bounded rate
    REDRIVEN = "redriven"  # the step is back in the queue; should it be given up again, that is another letter
    DISCARDED = "discarded"  # the failure was accepted


class Happening(StrEnum):
    """What the history of a step tells, its successes apart."""

    FAILED = "failed"  # a try failed
    CRASHED = "crashed"  # a converter died under it
    LOST = "lost"  # its dispatcher died
    BURIED = "buried"  # it was given up and became a dead letter
    REDRIVEN = "redriven"
    DISCARDED = "discarded"


State = TypeVar("State", JobState, StepState, LetterState)

JOB_MOVES: dict[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.CANCELLED}),
    JobState.RUNNING: frozenset(
        {JobState.QUEUED, JobState.SUCCEEDED, JobState.PARTIAL, JobState.FAILED, JobState.CANCELLED},
    ),
    JobState.SUCCEEDED: frozenset({JobState.EXPIRED}),
    JobState.PARTIAL: frozenset({JobState.QUEUED, JobState.EXPIRED}),
    JobState.FAILED: frozenset({JobState.QUEUED, JobState.EXPIRED}),
    JobState.CANCELLED: frozenset({JobState.EXPIRED}),
    JobState.EXPIRED: frozenset(),
}

STEP_MOVES: dict[StepState, frozenset[StepState]] = {
    StepState.WAITING: frozenset(
        {StepState.RUNNING, StepState.CACHED, StepState.FAILED, StepState.SKIPPED, StepState.CANCELLED},
    ),
    StepState.RUNNING: frozenset(
        {StepState.WAITING, StepState.SUCCEEDED, StepState.FAILED, StepState.CANCELLED},
    ),
    StepState.SUCCEEDED: frozenset(),
    StepState.CACHED: frozenset(),
    StepState.FAILED: frozenset({StepState.WAITING}),
    StepState.SKIPPED: frozenset({StepState.WAITING}),
    StepState.CANCELLED: frozenset(),
}

LETTER_MOVES: dict[LetterState, frozenset[LetterState]] = {
    LetterState.WAITING: frozenset({LetterState.REDRIVING, LetterState.DISCARDED}),
    LetterState.REDRIVING: frozenset({LetterState.REDRIVEN, LetterState.DISCARDED}),
    LetterState.REDRIVEN: frozenset(),
    LetterState.DISCARDED: frozenset(),
}

LETTER_OPEN = frozenset({LetterState.WAITING, LetterState.REDRIVING})
JOB_ENDED = frozenset(state for state in JobState if state not in (JobState.QUEUED, JobState.RUNNING))
STEP_DONE = frozenset({StepState.SUCCEEDED, StepState.CACHED})
STEP_WITHOUT_RESULT = frozenset({StepState.FAILED, StepState.SKIPPED, StepState.CANCELLED})
STEP_ENDED = frozenset(state for state in StepState if state not in (StepState.WAITING, StepState.RUNNING))


def origins(moves: dict[State, frozenset[State]], to: State) -> list[State]:
    """Return the states from which a record may move to `to`."""
    return [state for state, following in moves.items() if to in following]


def settled(steps: list[StepState], results: int) -> JobState:
    """Return the state of a job all of whose steps have ended, `results` of them with an artifact."""
    if all(state in STEP_DONE for state in steps):
        return JobState.SUCCEEDED
    return JobState.PARTIAL if results else JobState.FAILED
