"""The queue: claims and leases. An attempt that lost its lease writes nothing."""

from __future__ import annotations

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import psycopg
import pytest
from jobs import (
    ANN,
    BOB,
    CHAIN,
    Clock,
    claim,
    everything,
    finish,
    job_row,
    new_job,
    record,
    record_batch,
    states,
    stored,
    submit,
    submitted,
)
from pydantic import SecretStr

from pixtools.database import migrate
from pixtools.database.connection import Database
from pixtools.database.job_store import JobStore
from pixtools.errors import CorruptImage, LeaseLost, StorageDown
from pixtools.jobs.outcomes import Batch, Crashed, Failed, Started, Succeeded
from pixtools.states import JobState, StepState


def test_a_claim_from_an_empty_queue_gets_nothing(store):
    assert store.claim("d0", 10) == []


def test_a_claim_starts_the_first_attempt_under_a_lease(store, settings, database):
    submit(store, new_job(CHAIN))

    claimed = claim(store, "d7")

    job = claimed.view.job
    assert (job.state, job.attempt, claimed.attempt) == (JobState.RUNNING, 1, 1)
    row = job_row(database, claimed.id)
    assert row.dispatcher == "d7"
    assert abs((row.lease_until - datetime.now(UTC)) - settings.lease).total_seconds() < 10
    assert [step.name for step in claimed.view.steps] == list(CHAIN)
    assert store.claim("d8", 10) == []


def test_the_oldest_jobs_are_claimed_first(store):
    ids = [submit(store, new_job(owner=owner)).job_id for owner in (ANN, BOB, ANN, BOB)]

    assert {claimed.id for claimed in store.claim("d0", 3)} == set(ids[:3])
    assert {claimed.id for claimed in store.claim("d0", 3)} == {ids[3]}


def test_owners_take_turns_however_many_jobs_one_of_them_has_queued(store):
    of_ann = [submit(store, new_job(owner=ANN)).job_id for _ in range(20)]
    of_bob = [submit(store, new_job(owner=BOB)).job_id for _ in range(2)]

    first, second, third = ({claimed.id for claimed in store.claim("d0", 2)} for _ in range(3))

    assert first == {of_ann[0], of_bob[0]}
    assert second == {of_ann[1], of_bob[1]}
    assert third == set(of_ann[2:4])


def test_an_owner_whose_jobs_run_waits_for_the_owners_with_fewer_running_jobs(store):
    for _ in range(3):
        submit(store, new_job(owner=ANN))
    running = store.claim("d0", 3)
    of_ann = [submit(store, new_job(owner=ANN)).job_id for _ in range(3)]
    of_bob = [submit(store, new_job(owner=BOB)).job_id for _ in range(4)]

    assert {claimed.id for claimed in store.claim("d1", 3)} == set(of_bob[:3])
    assert {claimed.id for claimed in store.claim("d1", 2)} == {of_ann[0], of_bob[3]}

    for claimed in running:
        finish(store, claimed, "a", settle=True)
    assert {claimed.id for claimed in store.claim("d1", 1)} == {of_ann[1]}


def test_the_jobs_of_one_owner_are_claimed_in_the_order_in_which_they_became_available(store, database):
    ids = [submit(store).job_id for _ in range(5)]
    database.execute("UPDATE job SET available_at = now() - interval '1 hour' WHERE id = %s", [ids[3]])

    order = [claim(store).id for _ in ids]

    assert order == [ids[3], *ids[:3], ids[4]]


@pytest.mark.parametrize("how", ["its dispatcher died", "its dispatcher stopped", "its converter died"])
def test_a_job_that_comes_back_is_claimed_before_jobs_that_came_after_it(store, how):
    first = submitted(store)
    later = [submit(store).job_id for _ in range(3)]

    if how == "its dispatcher died":
        store.rescue("d0")
    elif how == "its dispatcher stopped":
        store.return_to_queue("d0")
    else:
        record(store, first, Started("a"))
        record(store, first, Crashed("a"), settle=True)

    assert [claim(store).id for _ in range(4)] == [first.id, *later]


def test_a_job_in_its_backoff_holds_no_place_in_the_queue_of_its_owner(store, database):
    waits, ready = (submit(store, new_job(owner=ANN)).job_id for _ in range(2))
    of_bob = submit(store, new_job(owner=BOB)).job_id
    database.execute("UPDATE job SET available_at = now() + interval '1 minute' WHERE id = %s", [waits])

    assert {claimed.id for claimed in store.claim("d0", 2)} == {ready, of_bob}


def test_a_claim_takes_other_jobs_instead_of_jobs_that_another_transaction_holds(store, settings):
    ids = [submit(store, new_job(owner=owner)).job_id for owner in (ANN, ANN, BOB, BOB)]

    with psycopg.connect(settings.database_url.get_secret_value()) as other:
        other.execute("SELECT FROM job WHERE id = ANY(%s) FOR UPDATE", [[ids[0], ids[2]]])
        assert {claimed.id for claimed in store.claim("d0", 2)} == {ids[1], ids[3]}


# If these methods are turned off, Postgres joins with nested loops and runs a subquery for each row.
PLANNING = ("hashjoin", "mergejoin", "hashagg", "sort", "material", "memoize", "indexscan", "bitmapscan")


@pytest.mark.parametrize("off", [(), PLANNING], ids=["as Postgres plans it", "by nested loops"])
def test_a_claim_keeps_its_limit_however_postgres_plans_the_query(settings, fresh_url, off):
    migrate.upgrade(fresh_url)
    with psycopg.connect(fresh_url, autocommit=True) as database:
        for method in off:
            database.execute(f"ALTER DATABASE {database.info.dbname} SET enable_{method} = off")
    settings = settings.model_copy(update={"database_url": SecretStr(fresh_url)})
    pool = Database(settings)
    store = JobStore(pool, settings)
    for owner in (ANN, BOB, ANN, BOB, ANN):
        submit(store, new_job(owner=owner))

    claimed = store.claim("d0", 3)
    pool.close()

    assert len(claimed) == 3
    assert {one.view.job.owner for one in claimed} == {ANN, BOB}


def test_a_claim_skips_a_job_that_another_transaction_holds(store, settings):
    first, second = submit(store).job_id, submit(store).job_id

    with psycopg.connect(settings.database_url.get_secret_value()) as other:
        other.execute("SELECT FROM job WHERE id = %s FOR UPDATE", [first])
        assert [claimed.id for claimed in store.claim("d0", 10)] == [second]

    assert [claimed.id for claimed in store.claim("d0", 10)] == [first]


@pytest.mark.parametrize("number_of_owners", [1, 20])
def test_many_claimers_at_once_never_share_a_job(store, number_of_owners):
    owners = [f"owner {number % number_of_owners}" for number in range(60)]
    ids = {submit(store, new_job(owner=owner)).job_id: owner for owner in owners}
    ready = threading.Barrier(8)

    def claim_all(number: int) -> list[uuid.UUID]:
        ready.wait(10)
        mine: list[uuid.UUID] = []
        while claims := store.claim(f"d{number}", 3):
            mine += [claimed.id for claimed in claims]
        return mine

    with ThreadPoolExecutor(8) as threads:
        taken = [job_id for mine in threads.map(claim_all, range(8)) for job_id in mine]

    # A claim that finds only locked jobs returns no job. So a thread may stop early. The last claim takes the rest.
    taken += [claimed.id for claimed in store.claim("last", 60)]
    assert len(taken) == len(set(taken))
    assert set(taken) == ids.keys()
    assert {store.get(owner, job_id).job.attempt for job_id, owner in ids.items()} == {1}


def test_a_job_is_not_claimed_before_its_backoff_ends(store, clock):
    claimed = submitted(store)
    record(store, claimed, Started("a"), Failed("a", StorageDown()), settle=True)
    clock.database.execute("UPDATE job SET available_at = now() + interval '1 minute'")
    assert store.claim("d0", 10) == []

    clock.end_backoff(claimed.id)

    assert claim(store).attempt == 2


def test_later_attempts_keep_the_start_time_of_the_first(store, clock, database):
    claimed = submitted(store)
    first_start = job_row(database, claimed.id).started_at
    clock.end_lease(claimed.id)
    store.rescue()
    clock.end_backoff(claimed.id)

    claim(store)

    assert job_row(database, claimed.id).started_at == first_start is not None


def test_renewing_extends_the_lease(store, clock):
    claimed = submitted(store)
    clock.end_lease(claimed.id)

    assert store.renew([(claimed.id, 1)]) == {(claimed.id, 1)}

    assert store.rescue() == []


def test_only_leases_that_still_hold_are_renewed(store, clock):
    held, lost, ended = (submitted(store) for _ in range(3))
    clock.end_lease(lost.id)
    store.rescue()
    finish(store, ended, "a", settle=True)
    unknown = uuid.uuid4()

    kept = store.renew([(held.id, 1), (lost.id, 1), (ended.id, 1), (unknown, 1)])

    assert kept == {(held.id, 1)}
    assert store.renew([(held.id, 2)]) == set()
    assert store.renew([]) == set()


def test_an_older_attempt_does_not_renew_the_lease_of_a_newer_one(store, clock):
    old, new = taken_over(store, clock)

    assert store.renew([(old.id, old.attempt)]) == set()
    assert store.renew([(new.id, new.attempt)]) == {(new.id, new.attempt)}


def taken_over(store: JobStore, clock: Clock):
    """Return two claims of one job: an old claim without a lease, and the current claim of another dispatcher."""
    old = submitted(store)
    clock.end_lease(old.id)
    assert store.rescue() == [old.id]
    clock.end_backoff(old.id)
    return old, claim(store, "d1")


@pytest.mark.parametrize("settle", [False, True])
def test_a_lost_lease_leaves_the_newer_attempt_alone(store, clock, settle):
    old, new = taken_over(store, clock)
    record(store, new, Started("a"))
    before = everything(clock.database)

    with pytest.raises(LeaseLost, match=str(old.id)):
        record(store, old, Succeeded("a", stored(old, "a"), 1), settle=settle)

    assert everything(clock.database) == before
    assert finish(store, new, "a", settle=True) is JobState.SUCCEEDED


def test_a_refreshed_claim_has_the_present_states_and_artifacts(store, clock):
    claimed = submitted(store, new_job(CHAIN, keys="same"))
    other = submitted(store, new_job({"b": ("source",)}, keys="same"))
    finish(store, claimed, "other")
    finish(store, other, "b", settle=True)

    refreshed = store.refresh(claimed)

    assert {step.name: step.state for step in refreshed.view.steps} == states(store, claimed.id)
    assert set(refreshed.reusable) == {"b-same"}
    assert "other" in refreshed.view.artifacts
    clock.end_lease(claimed.id)
    store.rescue()
    with pytest.raises(LeaseLost):
        store.refresh(claimed)


def test_each_batch_of_a_group_has_its_own_result(store, clock):
    old, new = taken_over(store, clock)
    first, second, retried, wrong = (submitted(store) for _ in range(4))
    batches = [
        Batch(first.id, 1, (Started("a"), Succeeded("a", stored(first, "a"), 7)), 1, settle=True),
        Batch(old.id, old.attempt, (Started("a"),), 1),
        Batch(new.id, new.attempt, (Started("a"),), 1),
        Batch(second.id, 1, (Started("a"), Failed("a", CorruptImage())), 1, settle=True),
        Batch(retried.id, 1, (Failed("a", StorageDown()),), 1, settle=True),
    ]

    results = store.record(batches)

    assert [results[0], *results[2:]] == [JobState.SUCCEEDED, JobState.RUNNING, JobState.FAILED, JobState.QUEUED]
    assert isinstance(results[1], LeaseLost)
    before = everything(clock.database)
    again = store.record(batches)
    assert (again[:1], again[2:]) == (results[:1], results[2:])
    assert everything(clock.database) == before

    late = Batch(new.id, new.attempt, (Succeeded("a", stored(new, "a"), 7),), 2, settle=True)
    bad = Batch(wrong.id, 1, (Succeeded("a", stored(wrong, "a"), 7),), 1, settle=True)
    state, error = store.record([late, bad])
    assert state is JobState.SUCCEEDED, "an error of one batch must not undo the others"
    assert "without having started" in str(error)
    assert store.get(ANN, wrong.id).job.state is JobState.RUNNING


@pytest.mark.parametrize("settle", [False, True])
def test_an_attempt_whose_job_was_rescued_writes_nothing(store, clock, settle):
    claimed = submitted(store)
    clock.end_lease(claimed.id)
    store.rescue()
    before = everything(clock.database)

    with pytest.raises(LeaseLost):
        finish(store, claimed, "a", settle=settle)

    assert everything(clock.database) == before


def test_an_attempt_whose_job_has_ended_writes_nothing(store, clock):
    claimed = submitted(store)
    finish(store, claimed, "a", settle=True)
    before = everything(clock.database)

    with pytest.raises(LeaseLost):
        record(store, claimed, Failed("a", StorageDown()), settle=True)

    assert everything(clock.database) == before


def test_an_unknown_job_has_no_lease(store):
    with pytest.raises(LeaseLost):
        record_batch(store, Batch(uuid.uuid4(), 1, ()))


def test_an_expired_lease_is_valid_until_the_job_is_rescued(store, clock):
    claimed = submitted(store)
    clock.end_lease(claimed.id)

    assert finish(store, claimed, "a", settle=True) is JobState.SUCCEEDED


def test_a_rescue_and_a_settlement_at_the_same_time_do_not_mix(store, clock):
    for _ in range(10):
        claimed = submitted(store)
        clock.end_lease(claimed.id)
        ready = threading.Barrier(2)

        def settle(claimed=claimed, ready=ready) -> bool:
            ready.wait(10)
            try:
                finish(store, claimed, "a", settle=True)
            except LeaseLost:
                return False
            return True

        def rescue(ready=ready) -> list[uuid.UUID]:
            ready.wait(10)
            return store.rescue()

        with ThreadPoolExecutor(2) as threads:
            settling, rescuing = threads.submit(settle), threads.submit(rescue)
            settled, rescued = settling.result(), rescuing.result()

        assert settled is (rescued == [])
        job = job_row(clock.database, claimed.id)
        ended = (JobState.SUCCEEDED, 0, {"a": StepState.SUCCEEDED})
        put_back = (JobState.QUEUED, 1, {"a": StepState.WAITING})
        assert (job.state, job.crashes, states(store, job.id)) == (ended if settled else put_back)
        clock.database.execute("DELETE FROM job")


def test_a_step_started_when_it_began_and_not_when_this_was_written(store):
    claimed = submitted(store, new_job())
    record(store, claimed, Started("a", ago_s=3600.0))

    view = store.get(ANN, claimed.id)
    assert (view.job.created_at - view.steps[0].started_at).total_seconds() == pytest.approx(3600, abs=600)
