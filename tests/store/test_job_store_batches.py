"""Batches of outcomes. A batch whose commit was not confirmed can be sent again. It is still written only once."""

from __future__ import annotations

import pytest
from jobs import ANN, claim, everything, finish, history, job_row, record, states, stored, submit, submitted

from pixtools.errors import LeaseLost, StorageRefused
from pixtools.jobs.outcomes import Crashed, Failed, Started, Succeeded
from pixtools.states import JobState, StepState

REFUSED = StorageRefused("The clock is wrong.")


@pytest.mark.parametrize("outcome", [Failed("a", REFUSED), Crashed("a")], ids=["failure", "crash"])
def test_the_same_batch_again_changes_nothing(store, database, outcome):
    claimed = submitted(store)
    assert record(store, claimed, Started("a"), outcome, batch=1) is JobState.RUNNING
    before = everything(database)

    for _ in range(3):
        assert record(store, claimed, Started("a"), outcome, batch=1) is JobState.RUNNING

    assert everything(database) == before
    (step,) = store.get(ANN, claimed.id).steps
    assert step.failures + step.crashes == 1
    assert len(history(database)) == 1


def test_the_batch_that_ended_the_job_can_be_written_again(store, database):
    claimed = submitted(store)
    outcomes = Started("a"), Succeeded("a", stored(claimed, "a"), 1)
    assert record(store, claimed, *outcomes, batch=1, settle=True) is JobState.SUCCEEDED
    before = everything(database)

    assert record(store, claimed, *outcomes, batch=1, settle=True) is JobState.SUCCEEDED

    assert everything(database) == before


def test_the_batch_that_requeued_the_job_can_be_written_again(store, clock):
    claimed = submitted(store)
    outcomes = Started("a"), Failed("a", REFUSED)
    assert record(store, claimed, *outcomes, batch=1, settle=True) is JobState.QUEUED
    before = everything(clock.database)

    assert record(store, claimed, *outcomes, batch=1, settle=True) is JobState.QUEUED

    assert everything(clock.database) == before


def test_the_last_batch_of_an_attempt_finds_the_lease_lost_when_the_next_attempt_has_begun(store, clock):
    claimed = submitted(store)
    record(store, claimed, Failed("a", REFUSED), batch=1, settle=True)
    clock.end_backoff(claimed.id)
    claim(store)
    before = everything(clock.database)

    with pytest.raises(LeaseLost):
        record(store, claimed, Failed("a", REFUSED), batch=1, settle=True)

    assert everything(clock.database) == before


def test_a_late_copy_of_an_earlier_batch_changes_nothing(store):
    claimed = submitted(store)

    record(store, claimed, Started("a"), batch=1)
    record(store, claimed, Succeeded("a", stored(claimed, "a"), 1), batch=2)
    record(store, claimed, Started("a"), batch=1)  # a late copy of the first batch

    assert states(store, claimed.id) == {"a": StepState.SUCCEEDED}
    assert record(store, claimed, batch=3, settle=True) is JobState.SUCCEEDED


@pytest.mark.parametrize("settle", [False, True])
def test_a_batch_finds_the_lease_lost_when_its_job_was_cancelled(store, database, settle):
    claimed = submitted(store)
    record(store, claimed, Started("a"), batch=1)
    store.cancel(ANN, claimed.id)
    before = everything(database)

    for batch in (1, 2):
        with pytest.raises(LeaseLost):
            record(store, claimed, Started("a"), batch=batch, settle=settle)

    assert everything(database) == before


def test_a_new_batch_finds_the_lease_lost_when_its_job_was_rescued(store, clock):
    claimed = submitted(store)
    record(store, claimed, Started("a"), batch=1)
    clock.end_lease(claimed.id)
    store.rescue()
    before = everything(clock.database)

    with pytest.raises(LeaseLost):
        record(store, claimed, Succeeded("a", stored(claimed, "a"), 1), batch=2)

    assert everything(clock.database) == before


def test_each_attempt_numbers_its_batches_from_one(store, clock, database):
    job_id = submit(store).job_id
    for attempt in (1, 2, 3):
        claimed = claim(store)
        assert (claimed.attempt, job_row(database, job_id).written) == (attempt, 0)
        record(store, claimed, Started("a"), batch=1)
        record(store, claimed, Failed("a", REFUSED), batch=2, settle=True)
        clock.end_backoff(job_id)

    assert store.get(ANN, job_id).steps[0].failures == 3


def test_without_a_number_every_batch_is_written(store):
    claimed = submitted(store)
    for _ in range(2):
        record(store, claimed, Failed("a", REFUSED))

    assert store.get(ANN, claimed.id).steps[0].failures == 2
    assert finish(store, claimed, "a", settle=True) is JobState.SUCCEEDED
