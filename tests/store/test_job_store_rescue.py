"""When a dispatcher dies, its jobs return to the queue. A job whose dispatchers die too often fails permanently."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from jobs import ANN, CHAIN, Clock, claim, finish, job_row, new_job, record, states, submit, submitted

from pixtools.database.job_store import JobStore
from pixtools.errors import LeaseLost
from pixtools.jobs.outcomes import Started
from pixtools.jobs.views import Claim
from pixtools.states import JobState, StepState


def test_a_job_whose_lease_holds_is_not_rescued(store):
    claimed = submitted(store)

    assert store.rescue() == []
    assert store.get(ANN, claimed.id).job.state == JobState.RUNNING


def test_the_first_rescue_of_a_job_makes_it_available_at_once(store, clock):
    claimed = submitted(store, new_job(CHAIN))
    finish(store, claimed, "t")
    record(store, claimed, Started("a"))
    version = store.status(ANN, claimed.id).version
    clock.end_lease(claimed.id)

    assert store.rescue() == [claimed.id]

    job = job_row(clock.database, claimed.id)
    assert (job.state, job.crashes, job.lease_until) == (JobState.QUEUED, 1, None)
    assert job.version > version
    assert clock.delay(claimed.id) <= 0
    kept = {"t": StepState.SUCCEEDED, "a": StepState.WAITING, "b": StepState.WAITING}
    assert states(store, claimed.id).items() >= kept.items()


def test_a_job_waits_after_its_second_rescue(store, clock):
    ids = [submit(store).job_id for _ in range(20)]
    clock.database.execute("UPDATE job SET crashes = 1")
    store.claim("d0", 20)
    store.rescue("d0")

    assert 0 < max(clock.delay(job_id) for job_id in ids) <= 2


def test_a_rescue_counts_as_no_try_of_a_step(store, clock):
    claimed = submitted(store)
    record(store, claimed, Started("a"))
    clock.end_lease(claimed.id)
    store.rescue()

    (step,) = store.get(ANN, claimed.id).steps
    assert (step.failures, step.crashes, step.error) == (0, 0, None)


def test_a_job_is_rescued_once(store, clock):
    clock.end_lease(submitted(store).id)

    assert len(store.rescue()) == 1
    assert store.rescue() == []


def test_sweepers_at_the_same_time_rescue_each_job_once(store, clock):
    ids = [submitted(store).id for _ in range(20)]
    for job_id in ids:
        clock.end_lease(job_id)

    with ThreadPoolExecutor(4) as threads:
        rescued = [job_id for found in threads.map(lambda _: store.rescue(), range(4)) for job_id in found]

    assert sorted(rescued) == sorted(ids)
    assert {job_row(clock.database, job_id).crashes for job_id in ids} == {1}


def test_the_jobs_of_a_named_dispatcher_are_rescued_before_their_leases_expire(store):
    submit(store)
    submit(store)
    mine, theirs = claim(store, "d0"), claim(store, "d1")

    assert store.rescue("d0") == [mine.id]
    assert store.get(ANN, theirs.id).job.state == JobState.RUNNING
    assert store.rescue("d0") == []


def test_a_job_that_ended_is_not_rescued(store):
    submit(store)
    finish(store, claim(store, "d0"), "a", settle=True)

    assert store.rescue("d0") == []


def lose(store: JobStore, clock: Clock, times: int) -> Claim:
    """Let dispatchers die, one after another, while they hold the only job. Return the last claim."""
    for _ in range(times):
        claimed = claim(store)
        clock.end_lease(claimed.id)
        store.rescue()
        clock.database.execute("UPDATE job SET available_at = now()")
    return claimed


def test_a_job_whose_dispatchers_die_too_often_fails_permanently(store, clock, settings):
    job_id = submit(store, new_job(CHAIN)).job_id

    lose(store, clock, settings.max_crashes - 1)
    assert store.get(ANN, job_id).job.state == JobState.QUEUED
    last = lose(store, clock, 1)

    job = job_row(clock.database, job_id)
    assert (job.state, job.crashes, job.lease_until) == (JobState.FAILED, settings.max_crashes, None)
    assert job.finished_at is not None
    assert store.claim("d0", 10) == []
    letters = clock.database.execute("SELECT step, attempt, error->>'code' FROM dead_letter ORDER BY step").fetchall()
    assert letters == [(step, last.attempt, "dispatcher_lost") for step in ("other", "t")]
    failed, skipped = StepState.FAILED, StepState.SKIPPED
    assert states(store, job_id) == {"t": failed, "a": skipped, "b": skipped, "z": skipped, "other": failed}


def test_a_job_that_fails_permanently_keeps_its_results(store, clock, settings):
    job_id = submit(store, new_job(CHAIN)).job_id
    lose(store, clock, settings.max_crashes - 1)
    claimed = claim(store)
    finish(store, claimed, "t", "a")
    record(store, claimed, Started("b"))
    clock.end_lease(job_id)

    store.rescue()

    assert store.get(ANN, job_id).job.state == JobState.PARTIAL
    done, failed, skipped = StepState.SUCCEEDED, StepState.FAILED, StepState.SKIPPED
    assert states(store, job_id) == {"t": done, "a": done, "b": failed, "z": skipped, "other": failed}
    assert store.get(ANN, job_id).artifacts.keys() == {"t", "a"}


def test_a_job_that_its_dispatcher_returns_to_the_queue_counts_no_crash(store, settings, database):
    job_id = submit(store, new_job(CHAIN)).job_id
    for _ in range(settings.max_crashes + 1):
        claimed = claim(store)
        record(store, claimed, Started("t"))
        assert store.return_to_queue() == [job_id]

    job = job_row(database, job_id)
    assert (job.state, job.crashes, job.lease_until) == (JobState.QUEUED, 0, None)
    assert set(states(store, job_id).values()) == {StepState.WAITING}
    with pytest.raises(LeaseLost):
        record(store, claimed, Started("t"))


def test_jobs_that_the_dispatcher_still_runs_do_not_return_to_the_queue(store):
    kept, other = submitted(store), submitted(store)

    assert store.return_to_queue("d0", [kept.id]) == [other.id]
    assert store.renew([(kept.id, 1), (other.id, 1)]) == {(kept.id, 1)}
