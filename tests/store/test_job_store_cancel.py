"""Cancelling: a job ends at once and keeps its results. Its dispatcher learns that the lease is lost."""

from __future__ import annotations

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from jobs import (
    ANN,
    BOB,
    CHAIN,
    claim,
    everything,
    fail,
    finish,
    history,
    job_row,
    new_job,
    record,
    states,
    submit,
    submitted,
)

from pixtools.errors import JobEnded, LeaseLost, NotFound
from pixtools.jobs.dead_letters import DeadLetterSelection
from pixtools.jobs.outcomes import Started
from pixtools.states import DeadLetterState, JobState, StepState

CANCELLED, SUCCEEDED, FAILED, SKIPPED = StepState.CANCELLED, StepState.SUCCEEDED, StepState.FAILED, StepState.SKIPPED


def test_a_queued_job_that_is_cancelled_is_never_claimed(store, settings, database):
    job_id = submit(store, new_job(CHAIN)).job_id
    version = store.status(ANN, job_id).version

    view = store.cancel(ANN, job_id)

    assert (view.job.state, view.job.attempt) == (JobState.CANCELLED, 0)
    assert job_row(database, job_id).lease_until is None
    assert view.job.expires_at == view.job.finished_at + settings.job_retention
    assert view.job.version > version
    assert states(store, job_id) == dict.fromkeys(CHAIN, CANCELLED)
    assert store.claim("d0", 10) == []


def test_the_results_of_a_running_job_are_kept_when_it_is_cancelled(store, database):
    claimed = submitted(store, new_job(CHAIN))
    finish(store, claimed, "t", "other")
    record(store, claimed, Started("a"))

    view = store.cancel(ANN, claimed.id)

    assert view.job.state == JobState.CANCELLED
    assert job_row(database, claimed.id).lease_until is None
    assert states(store, claimed.id) == dict.fromkeys("abz", CANCELLED) | {"t": SUCCEEDED, "other": SUCCEEDED}
    assert view.artifacts.keys() == {"t", "other"}
    assert store.rescue() == store.return_to_queue() == []


def test_cancelling_a_job_twice_changes_nothing(store, database):
    job_id = submitted(store).id
    store.cancel(ANN, job_id)
    before = everything(database)

    assert store.cancel(ANN, job_id).job.state == JobState.CANCELLED

    assert everything(database) == before


def test_a_job_that_ended_cannot_be_cancelled(store, database):
    done, failed = submitted(store, new_job(CHAIN)), submitted(store)
    finish(store, done, *CHAIN, settle=True)
    fail(store, failed, "a", settle=True)
    before = everything(database)

    for claimed, state in ((done, "succeeded"), (failed, "failed")):
        with pytest.raises(JobEnded, match=f"{claimed.id} is {state}"):
            store.cancel(ANN, claimed.id)
    assert everything(database) == before


def test_an_expired_job_cannot_be_cancelled(store, retention, clock):
    job_id = submit(store).job_id
    store.cancel(ANN, job_id)
    clock.end_retention(job_id)
    retention.expire_jobs()

    with pytest.raises(JobEnded, match="expired"):
        store.cancel(ANN, job_id)


def test_an_owner_cannot_cancel_the_job_of_another_owner(store):
    job_id = submit(store).job_id

    for owner, wanted in ((BOB, job_id), (ANN, uuid.uuid4())):
        with pytest.raises(NotFound, match=str(wanted)):
            store.cancel(owner, wanted)
    assert store.get(ANN, job_id).job.state == JobState.QUEUED


@pytest.mark.parametrize("asked", [False, True], ids=["waiting", "to be redriven"])
def test_the_open_dead_letters_of_a_cancelled_job_are_discarded(store, letters, database, asked):
    claimed = submitted(store, new_job(CHAIN))
    fail(store, claimed, "t")
    other = submitted(store)
    fail(store, other, "a")
    if asked:
        letters.request_redrive(ANN, DeadLetterSelection())

    store.cancel(ANN, claimed.id)

    def found(job_id: uuid.UUID) -> list[str]:
        views = letters.page(ANN, DeadLetterSelection(job=job_id), states=list(DeadLetterState), before=None, limit=10)
        return [view.letter.state for view in views]

    assert found(claimed.id) == [DeadLetterState.DISCARDED]
    assert found(other.id) == [DeadLetterState.REDRIVING if asked else DeadLetterState.WAITING]
    expected = {"t": FAILED} | dict.fromkeys("abz", SKIPPED) | {"other": CANCELLED}
    assert states(store, claimed.id) == expected
    assert [what for _, what, _ in history(database, "t")] == ["failed", "buried", "discarded"]


@pytest.mark.parametrize("batch", [None, 1])
@pytest.mark.parametrize("settle", [False, True])
def test_the_cancelled_attempt_records_nothing(store, database, batch, settle):
    claimed = submitted(store)
    record(store, claimed, Started("a"))
    store.cancel(ANN, claimed.id)
    before = everything(database)

    with pytest.raises(LeaseLost):
        record(store, claimed, Started("a"), batch=batch, settle=settle)

    assert everything(database) == before
    assert store.renew([(claimed.id, claimed.attempt)]) == set()


def test_a_cancellation_and_a_settlement_at_the_same_time_do_not_mix(store):
    for _ in range(10):
        claimed = submitted(store)
        ready = threading.Barrier(2)

        def cancel(claimed=claimed, ready=ready) -> bool:
            ready.wait(10)
            try:
                store.cancel(ANN, claimed.id)
            except JobEnded:
                return False
            return True

        def settle(claimed=claimed, ready=ready) -> bool:
            ready.wait(10)
            try:
                finish(store, claimed, "a", settle=True)
            except LeaseLost:
                return False
            return True

        with ThreadPoolExecutor(2) as threads:
            cancelling, settling = threads.submit(cancel), threads.submit(settle)
            cancelled, settled = cancelling.result(), settling.result()

        assert cancelled is not settled
        ended = (JobState.CANCELLED, CANCELLED) if cancelled else (JobState.SUCCEEDED, SUCCEEDED)
        assert (store.get(ANN, claimed.id).job.state, states(store, claimed.id)["a"]) == ended


def test_a_job_can_be_cancelled_while_its_dead_letters_are_discarded(store, letters):
    for _ in range(20):
        job_id = submit(store, new_job(CHAIN)).job_id
        fail(store, claim(store), "t")
        ready = threading.Barrier(2)

        def cancel(job_id=job_id, ready=ready) -> None:
            ready.wait(10)
            store.cancel(ANN, job_id)

        def discard(ready=ready) -> None:
            ready.wait(10)
            letters.discard(ANN, DeadLetterSelection())

        with ThreadPoolExecutor(2) as threads:
            for ended in [threads.submit(cancel), threads.submit(discard)]:
                ended.result()  # a deadlock would raise DatabaseDown
