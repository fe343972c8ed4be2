"""When a dispatcher dies: its jobs go back to the queue, and are given up when that happens too often."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from jobs import ANN, CHAIN, Clock, claim, finish, new_job, states, submit, submitted

from pixtools.database.job_store import Claim, JobStore
from pixtools.errors import LeaseLost
from pixtools.jobs.outcomes import Began
from pixtools.states import JobState, StepState


def test_a_lease_that_holds_is_left_alone(store):
    claimed = submitted(store)

    assert store.rescue() == []
    assert store.get(ANN, claimed.id).job.state == JobState.RUNNING


def test_a_lease_that_ran_out_for_the_first_time_puts_the_job_back_at_once(store, clock):
    claimed = submitted(store, new_job(CHAIN))
    finish(store, claimed, "t")
    store.record(claimed.id, 1, [Began("a")])
    version = store.version(ANN, claimed.id)
    clock.end_lease(claimed.id)

    assert store.rescue() == [claimed.id]

    job = store.get(ANN, claimed.id).job
    assert (job.state, job.crashes, job.lease_until) == (JobState.QUEUED, 1, None)
    assert job.version > version
    assert clock.delay(claimed.id) <= 0
    kept = {"t": StepState.SUCCEEDED, "a": StepState.WAITING, "b": StepState.WAITING}
    assert states(store, claimed.id).items() >= kept.items()


def test_a_job_whose_dispatchers_die_again_waits_for_its_next_try(store, clock):
    ids = [submit(store).job_id for _ in range(20)]
    clock.database.execute("UPDATE job SET crashes = 1")
    store.claim("d0", 20)
    store.rescue("d0")

    assert 0 < max(clock.delay(job_id) for job_id in ids) <= 2


def test_a_rescue_costs_a_step_no_try(store, clock):
    claimed = submitted(store)
    store.record(claimed.id, 1, [Began("a")])
    clock.end_lease(claimed.id)
    store.rescue()

    (step,) = store.get(ANN, claimed.id).steps
    assert (step.failures, step.crashes, step.error) == (0, 0, None)


def test_a_job_is_rescued_once(store, clock):
    clock.end_lease(submitted(store).id)

    assert len(store.rescue()) == 1
    assert store.rescue() == []


def test_sweepers_at_once_rescue_each_job_once(store, clock):
    ids = [submitted(store).id for _ in range(20)]
    for job_id in ids:
        clock.end_lease(job_id)

    with ThreadPoolExecutor(4) as threads:
        rescued = [job_id for found in threads.map(lambda _: store.rescue(), range(4)) for job_id in found]

    assert sorted(rescued) == sorted(ids)
    assert {store.get(ANN, job_id).job.crashes for job_id in ids} == {1}


def test_a_dispatcher_that_came_back_frees_its_own_jobs_without_waiting_for_their_leases(store):
    submit(store)
    submit(store)
    mine, theirs = claim(store, "d0"), claim(store, "d1")

    assert store.rescue("d0") == [mine.id]
    assert store.get(ANN, theirs.id).job.state == JobState.RUNNING
    assert store.rescue("d0") == []


def test_what_a_dispatcher_finished_before_it_died_is_not_rescued(store):
    submit(store)
    finish(store, claim(store, "d0"), "a", settle=True)

    assert store.rescue("d0") == []


def lose(store: JobStore, clock: Clock, times: int) -> Claim:
    """Have the dispatchers of a job die under it; return the last claim."""
    for _ in range(times):
        claimed = claim(store)
        clock.end_lease(claimed.id)
        store.rescue()
        clock.database.execute("UPDATE job SET available_at = now()")
    return claimed


def test_a_job_that_outlived_too_many_dispatchers_is_given_up(store, clock, settings):
    job_id = submit(store, new_job(CHAIN)).job_id

    lose(store, clock, settings.max_crashes - 1)
    assert store.get(ANN, job_id).job.state == JobState.QUEUED
    last = lose(store, clock, 1)

    job = store.get(ANN, job_id).job
    assert (job.state, job.crashes, job.lease_until) == (JobState.FAILED, settings.max_crashes, None)
    assert job.finished_at is not None
    assert store.claim("d0", 10) == []
    letters = clock.database.execute("SELECT step, attempt, error->>'code' FROM dead_letter ORDER BY step").fetchall()
    assert letters == [(step, last.attempt, "dispatcher_lost") for step in ("other", "t")]
    failed, skipped = StepState.FAILED, StepState.SKIPPED
    assert states(store, job_id) == {"t": failed, "a": skipped, "b": skipped, "z": skipped, "other": failed}


def test_a_job_that_is_given_up_keeps_what_it_has(store, clock, settings):
    job_id = submit(store, new_job(CHAIN)).job_id
    lose(store, clock, settings.max_crashes - 1)
    claimed = claim(store)
    finish(store, claimed, "t", "a")
    store.record(claimed.id, claimed.attempt, [Began("b")])
    clock.end_lease(job_id)

    store.rescue()

    assert store.get(ANN, job_id).job.state == JobState.PARTIAL
    done, failed, skipped = StepState.SUCCEEDED, StepState.FAILED, StepState.SKIPPED
    assert states(store, job_id) == {"t": done, "a": done, "b": failed, "z": skipped, "other": failed}
    assert store.get(ANN, job_id).artifacts.keys() == {"t", "a"}


def test_a_job_handed_back_in_good_order_goes_on_at_once_and_nobody_is_blamed(store, settings):
    job_id = submit(store, new_job(CHAIN)).job_id
    for _ in range(settings.max_crashes + 1):
        claimed = claim(store)
        store.record(job_id, claimed.attempt, [Began("t")])
        assert store.hand_back() == [job_id]

    view = store.get(ANN, job_id)
    assert (view.job.state, view.job.crashes, view.job.lease_until) == (JobState.QUEUED, 0, None)
    assert {step.state for step in view.steps} == {StepState.WAITING}
    with pytest.raises(LeaseLost):
        store.record(job_id, claimed.attempt, [Began("t")])


def test_jobs_that_are_at_hand_are_not_handed_back(store):
    kept, other = submitted(store), submitted(store)

    assert store.hand_back("d0", [kept.id]) == [other.id]
    assert store.renew([(kept.id, 1), (other.id, 1)]) == {(kept.id, 1)}
