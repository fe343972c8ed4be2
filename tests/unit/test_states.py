"""What may follow what, for jobs and steps."""

from __future__ import annotations

import pytest

from pixtools.states import (
    JOB_ENDED,
    JOB_MOVES,
    STEP_DONE,
    STEP_ENDED,
    STEP_MOVES,
    JobState,
    StepState,
    origins,
    settled,
)


@pytest.mark.parametrize(
    ("moves", "first"), [(JOB_MOVES, JobState.QUEUED), (STEP_MOVES, StepState.WAITING)], ids=["jobs", "steps"]
)
def test_every_state_can_be_reached_from_the_first(moves, first):
    reached, new = set(), {first}
    while new:
        reached |= new
        new = {after for state in new for after in moves[state]} - reached

    assert reached == set(moves) == set(type(first))


def test_an_ended_job_can_only_expire():
    for state in JOB_ENDED:
        assert JOB_MOVES[state] <= {JobState.EXPIRED}


def test_an_ended_step_stays_as_it_is():
    assert not any(STEP_MOVES[state] for state in STEP_ENDED)


def test_what_has_not_ended_can_still_be_cancelled():
    assert all(JobState.CANCELLED in JOB_MOVES[state] for state in set(JobState) - JOB_ENDED)
    assert all(StepState.CANCELLED in STEP_MOVES[state] for state in set(StepState) - STEP_ENDED)


def test_no_state_follows_itself():
    assert not any(state in moves for state, moves in [*JOB_MOVES.items(), *STEP_MOVES.items()])


@pytest.mark.parametrize(
    ("to", "states"),
    [
        (JobState.RUNNING, [JobState.QUEUED]),
        (JobState.QUEUED, [JobState.RUNNING]),
        (JobState.SUCCEEDED, [JobState.RUNNING]),
        (JobState.CANCELLED, [JobState.QUEUED, JobState.RUNNING]),
    ],
)
def test_where_a_job_may_come_from(to, states):
    assert origins(JOB_MOVES, to) == states


@pytest.mark.parametrize(
    ("to", "states"),
    [
        (StepState.RUNNING, [StepState.WAITING]),
        (StepState.SUCCEEDED, [StepState.RUNNING]),
        (StepState.CACHED, [StepState.WAITING]),
        (StepState.FAILED, [StepState.WAITING, StepState.RUNNING]),
        (StepState.SKIPPED, [StepState.WAITING]),
    ],
)
def test_where_a_step_may_come_from(to, states):
    assert origins(STEP_MOVES, to) == states


OK, CACHED, BAD, SKIPPED = StepState.SUCCEEDED, StepState.CACHED, StepState.FAILED, StepState.SKIPPED


@pytest.mark.parametrize(
    ("steps", "results", "job"),
    [
        ([OK], 1, JobState.SUCCEEDED),
        ([OK, CACHED], 1, JobState.SUCCEEDED),
        ([CACHED], 1, JobState.SUCCEEDED),
        ([OK, BAD], 1, JobState.PARTIAL),
        ([CACHED, SKIPPED, BAD], 1, JobState.PARTIAL),
        ([OK, BAD], 0, JobState.FAILED),
        ([BAD], 0, JobState.FAILED),
        ([BAD, SKIPPED], 0, JobState.FAILED),
    ],
)
def test_a_job_is_settled_by_its_steps_and_what_they_left(steps, results, job):
    assert settled(steps, results) is job


def test_done_steps_are_ended_steps():
    assert STEP_DONE < STEP_ENDED
