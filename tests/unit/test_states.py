"""What may follow what, for jobs, steps and dead letters."""

from __future__ import annotations

import pytest

from pixtools.states import (
    JOB_ENDED,
    JOB_MOVES,
    LETTER_MOVES,
    LETTER_OPEN,
    STEP_DONE,
    STEP_ENDED,
    STEP_MOVES,
    STEP_WITHOUT_RESULT,
    JobState,
    LetterState,
    StepState,
    origins,
    settled,
)


@pytest.mark.parametrize(
    ("moves", "first"),
    [(JOB_MOVES, JobState.QUEUED), (STEP_MOVES, StepState.WAITING), (LETTER_MOVES, LetterState.WAITING)],
    ids=["jobs", "steps", "letters"],
)
def test_every_state_can_be_reached_from_the_first(moves, first):
    reached, new = set(), {first}
    while new:
        reached |= new
        new = {after for state in new for after in moves[state]} - reached

    assert reached == set(moves) == set(type(first))


def test_an_ended_job_can_only_expire_or_go_on_where_something_failed():
    again = {JobState.PARTIAL, JobState.FAILED}
    for state in JOB_ENDED - {JobState.EXPIRED}:
        assert JOB_MOVES[state] == {JobState.EXPIRED} | ({JobState.QUEUED} if state in again else set())
    assert JOB_MOVES[JobState.EXPIRED] == set()


def test_an_ended_step_stays_as_it_is_unless_it_failed_or_was_skipped_for_one_that_did():
    again = {StepState.FAILED, StepState.SKIPPED}
    for state in STEP_ENDED:
        assert STEP_MOVES[state] == ({StepState.WAITING} if state in again else set())


def test_a_decision_about_a_dead_letter_is_final_once_carried_out():
    assert {state for state in LetterState if LETTER_MOVES[state]} == LETTER_OPEN


def test_what_has_not_ended_can_still_be_cancelled():
    assert all(JobState.CANCELLED in JOB_MOVES[state] for state in set(JobState) - JOB_ENDED)
    assert all(StepState.CANCELLED in STEP_MOVES[state] for state in set(StepState) - STEP_ENDED)


def test_no_state_follows_itself():
    assert not any(state in moves for state, moves in [*JOB_MOVES.items(), *STEP_MOVES.items(), *LETTER_MOVES.items()])


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
        (StepState.WAITING, [StepState.RUNNING, StepState.FAILED, StepState.SKIPPED]),
        (StepState.CANCELLED, [StepState.WAITING, StepState.RUNNING]),
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


def test_a_step_that_ended_has_its_result_or_will_get_none():
    assert STEP_DONE | STEP_WITHOUT_RESULT == STEP_ENDED
    assert not STEP_DONE & STEP_WITHOUT_RESULT
