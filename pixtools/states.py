"""The states of jobs, steps, dead letters and deliveries, and every move that is allowed between them.

`pixtools/database/transitions.py` derives the guards of all updates from these tables. No other code decides which
state may follow which.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TypeVar


class JobState(StrEnum):
    """The state of a job. Each comment says who sets it, and when."""

    QUEUED = "queued"  # by the ingress; again by a dispatcher, the sweeper, the dead-letter queue or the launcher
    RUNNING = "running"  # by the dispatcher that claims the job
    SUCCEEDED = "succeeded"  # by the dispatcher or the sweeper: every step succeeded or was cached
    PARTIAL = "partial"  # by the dispatcher or the sweeper: a step failed, but another step has an artifact
    FAILED = "failed"  # by the dispatcher or the sweeper: a step failed, and no step has an artifact
    CANCELLED = "cancelled"  # by the ingress, because the owner cancelled the job before its end
    EXPIRED = "expired"  # by the reconciler after the retention: the record stays, the artifacts are released


class StepState(StrEnum):
    """The state of a step. Each comment says when it is set."""

    WAITING = "waiting"  # the step was accepted, or it will be tried again
    RUNNING = "running"  # a converter or a denoiser runs the step
    SUCCEEDED = "succeeded"  # the result of the step is stored
    CACHED = "cached"  # the step did not run: its result existed before, or no other step needs its pixels
    FAILED = "failed"  # the step failed permanently; it has a dead letter
    SKIPPED = "skipped"  # an input of the step failed permanently or was skipped
    CANCELLED = "cancelled"  # the job of the step was cancelled


class DeadLetterState(StrEnum):
    """The state of a dead letter. Each comment says when it is set."""

    WAITING = "waiting"  # the step failed permanently; the owner has to decide
    REDRIVING = "redriving"  # the owner requested a redrive; the dead-letter queue limits the rate
    REDRIVEN = "redriven"  # the step waits again; if this step fails permanently again, it gets a new dead letter
    DISCARDED = "discarded"  # the owner accepted the failure, or cancelled the job


class DeliveryState(StrEnum):
    """The state of a delivery. Each comment says when it is set."""

    WAITING = "waiting"  # the event was written, an attempt failed, or somebody requested a replay or a redrive
    SENDING = "sending"  # a courier has a lease and sends the event
    DELIVERED = "delivered"  # the receiver answered with a status 2xx
    FAILED = "failed"  # no attempt is left, or the receiver is gone; the delivery has a dead letter unless it is a test
    HELD = "held"  # the endpoint is disabled
    DISCARDED = "discarded"  # somebody discarded the dead letter of the delivery


class StepEventKind(StrEnum):
    """An event in the history of a step. The history does not contain successful tries."""

    FAILED = "failed"  # a try failed
    CRASHED = "crashed"  # a converter died while it ran the step
    LOST = "lost"  # the dispatcher died while the step ran
    # The value is still the old name of this event, because the database and the clients of the API use this value.
    FAILED_PERMANENTLY = "buried"  # the step ended without a result and got a dead letter
    REDRIVEN = "redriven"
    DISCARDED = "discarded"


State = TypeVar("State", JobState, StepState, DeadLetterState, DeliveryState)

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

DEAD_LETTER_MOVES: dict[DeadLetterState, frozenset[DeadLetterState]] = {
    DeadLetterState.WAITING: frozenset({DeadLetterState.REDRIVING, DeadLetterState.DISCARDED}),
    DeadLetterState.REDRIVING: frozenset({DeadLetterState.REDRIVEN, DeadLetterState.DISCARDED}),
    DeadLetterState.REDRIVEN: frozenset(),
    DeadLetterState.DISCARDED: frozenset(),
}

DELIVERY_MOVES: dict[DeliveryState, frozenset[DeliveryState]] = {
    DeliveryState.WAITING: frozenset({DeliveryState.SENDING, DeliveryState.HELD}),
    DeliveryState.SENDING: frozenset(
        {DeliveryState.DELIVERED, DeliveryState.WAITING, DeliveryState.FAILED},
    ),
    DeliveryState.DELIVERED: frozenset({DeliveryState.WAITING}),
    DeliveryState.FAILED: frozenset({DeliveryState.WAITING, DeliveryState.DISCARDED}),
    DeliveryState.HELD: frozenset({DeliveryState.WAITING}),
    DeliveryState.DISCARDED: frozenset(),
}

DEAD_LETTER_OPEN = frozenset({DeadLetterState.WAITING, DeadLetterState.REDRIVING})
DELIVERY_OPEN = frozenset({DeliveryState.WAITING, DeliveryState.SENDING, DeliveryState.HELD})
JOB_ENDED = frozenset(state for state in JobState if state not in (JobState.QUEUED, JobState.RUNNING))
STEP_DONE = frozenset({StepState.SUCCEEDED, StepState.CACHED})
STEP_WITHOUT_RESULT = frozenset({StepState.FAILED, StepState.SKIPPED, StepState.CANCELLED})
STEP_ENDED = frozenset(state for state in StepState if state not in (StepState.WAITING, StepState.RUNNING))


def states_before(moves: dict[State, frozenset[State]], to: State) -> list[State]:
    """Return each state with a move to `to` in `moves`."""
    return [state for state, following in moves.items() if to in following]


def job_state_after(steps: list[StepState], results: int) -> JobState:
    """Return the final state of a job.

    `steps` contains the states of all its steps, which have ended. `results` is the number of steps with an artifact.
    """
    if all(state in STEP_DONE for state in steps):
        return JobState.SUCCEEDED
    return JobState.PARTIAL if results else JobState.FAILED
