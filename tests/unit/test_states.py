"""The allowed moves between the states of jobs, steps and dead letters."""

from __future__ import annotations

import pytest

from pixtools.states import (
    DEAD_LETTER_MOVES,
    DEAD_LETTER_OPEN,
    DELIVERY_MOVES,
    JOB_ENDED,
    JOB_MOVES,
    STEP_DONE,
    STEP_ENDED,
    STEP_MOVES,
    STEP_WITHOUT_RESULT,
    DeadLetterState,
    DeliveryState,
    JobState,
    StepState,
    job_state_after,
    states_before,
)


@pytest.mark.parametrize(
    ("moves", "first"),
    [
        (JOB_MOVES, JobState.QUEUED),
        (STEP_MOVES, StepState.WAITING),
        (DEAD_LETTER_MOVES, DeadLetterState.WAITING),
        (DELIVERY_MOVES, DeliveryState.WAITING),
    ],
    ids=["jobs", "steps", "letters", "deliveries"],
)
def test_every_state_can_be_reached_from_the_first(moves, first):
    reached, new = set(), {first}
    while new:
        reached |= new
        new = {after for state in new for after in moves[state]} - reached

    assert reached == set(moves) == set(type(first))


def test_an_ended_job_can_only_expire_or_be_redriven_after_a_failure():
    again = {JobState.PARTIAL, JobState.FAILED}
    for state in JOB_ENDED - {JobState.EXPIRED}:
        assert JOB_MOVES[state] == {JobState.EXPIRED} | ({JobState.QUEUED} if state in again else set())
    assert JOB_MOVES[JobState.EXPIRED] == set()


def test_an_ended_step_keeps_its_state_unless_it_failed_or_was_skipped():
    again = {StepState.FAILED, StepState.SKIPPED}
    for state in STEP_ENDED:
        assert STEP_MOVES[state] == ({StepState.WAITING} if state in again else set())


def test_a_closed_dead_letter_keeps_its_state():
    assert {state for state in DeadLetterState if DEAD_LETTER_MOVES[state]} == DEAD_LETTER_OPEN


def test_a_job_or_step_that_has_not_ended_can_be_cancelled():
    assert all(JobState.CANCELLED in JOB_MOVES[state] for state in set(JobState) - JOB_ENDED)
    assert all(StepState.CANCELLED in STEP_MOVES[state] for state in set(StepState) - STEP_ENDED)


def test_no_state_follows_itself():
    tables = (JOB_MOVES, STEP_MOVES, DEAD_LETTER_MOVES, DELIVERY_MOVES)
    assert not any(state in after for moves in tables for state, after in moves.items())


@pytest.mark.parametrize(
    ("to", "states"),
    [
        (JobState.RUNNING, [JobState.QUEUED]),
        (JobState.QUEUED, [JobState.RUNNING, JobState.PARTIAL, JobState.FAILED]),
        (JobState.SUCCEEDED, [JobState.RUNNING]),
        (JobState.CANCELLED, [JobState.QUEUED, JobState.RUNNING]),
        (
            JobState.EXPIRED,
            [JobState.SUCCEEDED, JobState.PARTIAL, JobState.FAILED, JobState.CANCELLED],
        ),
    ],
)
def test_the_states_before_a_state_of_a_job(to, states):
    assert states_before(JOB_MOVES, to) == states


@pytest.mark.parametrize(
    ("to", "states"),
    [
        (StepState.RUNNING, [StepState.WAITING]),
        (StepState.SUCCEEDED, [StepState.RUNNING]),
        (StepState.CACHED, [StepState.WAITING]),
        (StepState.FAILED, [StepState.WAITING, StepState.RUNNING]),
        (StepState.SKIPPED, [StepState.WAITING]),
        (StepState.WAITING, [StepState.RUNNING, StepState.FAILED, StepState.SKIPPED]),
        (StepState.CANCELLED, [StepState.WAITING, StepState.RUNNING]),
    ],
)
def test_the_states_before_a_state_of_a_step(to, states):
    assert states_before(STEP_MOVES, to) == states


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
def test_the_states_and_results_of_the_steps_decide_how_a_job_ends(steps, results, job):
    assert job_state_after(steps, results) is job


def test_a_step_that_ended_is_done_or_without_a_result():
    assert STEP_DONE | STEP_WITHOUT_RESULT == STEP_ENDED
    assert not STEP_DONE & STEP_WITHOUT_RESULT
