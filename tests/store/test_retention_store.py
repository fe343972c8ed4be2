"""Retention: how long jobs and artifacts are kept. No blob or artifact is deleted while records refer to it."""

from __future__ import annotations

import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from jobs import ANN, BOB, CHAIN, claim, everything, fail, finish, new_job, record, states, stored, submit, submitted

from pixtools.database.connection import Database
from pixtools.database.job_store import JobStore
from pixtools.database.retention_store import RetentionStore
from pixtools.errors import DatabaseDown
from pixtools.jobs.dead_letters import DeadLetterSelection
from pixtools.jobs.outcomes import Cached, Started, Succeeded
from pixtools.jobs.views import Claim
from pixtools.states import JobState, StepState

WAITING, SUCCEEDED, CACHED = StepState.WAITING, StepState.SUCCEEDED, StepState.CACHED


def done(store: JobStore, keys: str = "", blob: str = "blob", owner: str = ANN) -> Claim:
    """Return the claim of a succeeded job of one step. The blob key of its artifact is `blob`."""
    submit(store, new_job(keys=keys, owner=owner))
    claimed = claim(store)
    record(store, claimed, Started("a"), Succeeded("a", stored(claimed, "a", blob), 1), settle=True)
    return claimed


def expired(store: JobStore, retention: RetentionStore, clock, **options: str) -> Claim:
    """Return the claim of an expired job that `done` made."""
    claimed = done(store, **options)
    clock.end_retention(claimed.id)
    assert retention.expire_jobs() == [["sources/x"]]
    return claimed


def count(database: psycopg.Connection, table: str) -> int:
    return database.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


def test_the_time_comes_from_the_database(retention):
    assert abs(retention.now() - datetime.now(UTC)) < timedelta(seconds=10)


# Jobs


def test_a_job_expires_after_its_retention(store, retention, clock, settings):
    claimed = done(store)
    job = store.get(ANN, claimed.id).job
    assert job.expires_at == job.finished_at + settings.job_retention
    clock.end_retention(claimed.id)

    assert retention.expire_jobs() == [["sources/x"]]
    assert retention.expire_jobs() == []

    view = store.get(ANN, claimed.id)
    assert view.job.state == JobState.EXPIRED
    assert view.job.version > job.version
    assert (view.steps[0].state, view.steps[0].artifact_id, view.artifacts) == (SUCCEEDED, None, {})


def test_a_job_does_not_expire_before_its_retention_ends(store, retention, database):
    done(store)
    before = everything(database)

    assert retention.expire_jobs() == []

    assert everything(database) == before


def test_a_job_that_has_not_ended_does_not_expire(store, retention, clock):
    queued, running = submit(store).job_id, None
    (claimed,) = store.claim("d0", 1)
    running, queued = claimed.id, submit(store).job_id
    for job_id in (queued, running):
        clock.end_retention(job_id)

    assert retention.expire_jobs() == []


def test_a_job_without_an_end_of_retention_does_not_expire(store, retention, database):
    done(store)
    database.execute("UPDATE job SET expires_at = NULL")

    assert retention.expire_jobs() == []


@pytest.mark.parametrize("end", ["failed", "partial", "cancelled"])
def test_a_job_expires_from_every_state_in_which_it_can_end(store, retention, letters, clock, end):
    claimed = submitted(store, new_job(CHAIN))
    if end == "cancelled":
        store.cancel(ANN, claimed.id)
    else:
        fail(store, claimed, "t", *(["other"] if end == "failed" else []))
        finish(store, claimed, *(["other"] if end == "partial" else []), settle=True)
    letters.discard(ANN, DeadLetterSelection())
    assert store.get(ANN, claimed.id).job.state == end
    clock.end_retention(claimed.id)

    assert len(retention.expire_jobs()) == 1

    assert store.get(ANN, claimed.id).job.state == JobState.EXPIRED


@pytest.mark.parametrize("asked", [False, True], ids=["waiting", "to be redriven"])
def test_a_job_with_an_open_letter_is_kept_until_the_letter_is_closed(store, retention, letters, clock, asked):
    claimed = submitted(store, new_job(CHAIN))
    fail(store, claimed, "t")
    finish(store, claimed, "other", settle=True)
    clock.end_retention(claimed.id)
    if asked:
        letters.request_redrive(ANN, DeadLetterSelection())

    assert retention.expire_jobs() == []
    assert store.get(ANN, claimed.id).artifacts.keys() == {"other"}

    letters.discard(ANN, DeadLetterSelection())
    assert len(retention.expire_jobs()) == 1


def test_an_expired_job_is_deleted_with_all_its_records(store, retention, letters, clock):
    claimed = submitted(store)
    fail(store, claimed, "a", settle=True)
    letters.discard(ANN, DeadLetterSelection())
    clock.end_retention(claimed.id)
    assert retention.delete_expired_jobs(timedelta()) == 0  # the job has not expired yet
    retention.expire_jobs()

    assert retention.delete_expired_jobs(timedelta(days=1)) == 0
    assert retention.delete_expired_jobs(timedelta()) == 1
    assert retention.delete_expired_jobs(timedelta()) == 0

    tables = ("job", "step", "dead_letter", "step_event")
    assert [count(clock.database, table) for table in tables] == [0] * 4


# Artifacts


def test_an_artifact_is_dropped_when_no_job_refers_to_it(store, retention, clock):
    expired(store, retention, clock, blob="artifacts/1")

    assert retention.drop_artifacts() == ["artifacts/1"]
    assert retention.drop_artifacts() == []
    assert count(clock.database, "artifact") == 0


def test_an_artifact_stays_while_one_job_refers_to_it(store, retention, clock):
    first = done(store, keys="same", blob="artifacts/1")
    second = submitted(store, new_job(keys="same"))
    (artifact,) = second.reusable.values()
    record(store, second, Cached("a", artifact.id), settle=True)

    clock.end_retention(first.id)
    retention.expire_jobs()
    assert retention.drop_artifacts() == []
    assert store.get(ANN, second.id).artifacts["a"].blob_key == "artifacts/1"

    clock.end_retention(second.id)
    retention.expire_jobs()
    assert retention.drop_artifacts() == ["artifacts/1"]


def test_a_step_cannot_take_an_artifact_that_was_dropped(store, retention, clock):
    expired(store, retention, clock, keys="same")
    claimed = submitted(store, new_job(keys="same"))
    (artifact,) = claimed.reusable.values()
    retention.drop_artifacts()

    assert record(store, claimed, Cached("a", artifact.id), settle=True) is JobState.QUEUED

    assert states(store, claimed.id) == {"a": WAITING}
    assert clock.delay(claimed.id) <= 0  # no backoff, because nothing failed
    again = claim(store)
    assert again.reusable == {}
    assert finish(store, again, "a", settle=True) is JobState.SUCCEEDED


def test_a_step_cannot_take_an_artifact_that_is_lost(store, retention):
    done(store, keys="same", blob="artifacts/1")
    claimed = submitted(store, new_job(keys="same"))
    (artifact,) = claimed.reusable.values()
    retention.mark_lost("artifacts/1")

    record(store, claimed, Cached("a", artifact.id))

    assert states(store, claimed.id) == {"a": WAITING}


class Pausing(Database):
    """A database whose transactions wait before the commit until the test sets `go_on`."""

    def __init__(self, settings) -> None:
        super().__init__(settings)
        self.reached, self.go_on = threading.Event(), threading.Event()

    def transaction(self):
        outer = super().transaction

        class Paused:
            def __enter__(_):  # noqa: N805 (self is the database)
                self.inner = outer()
                return self.inner.__enter__()

            def __exit__(_, *error):  # noqa: N805
                self.reached.set()
                assert self.go_on.wait(20)
                return self.inner.__exit__(*error)

        return Paused()


@pytest.fixture
def pausing(settings):
    database = Pausing(settings)
    yield database
    database.go_on.set()
    database.close()


def test_an_artifact_is_not_dropped_while_a_step_begins_to_refer_to_it(store, retention, clock, settings, pausing):
    expired(store, retention, clock, keys="same", blob="artifacts/1")
    claimed = submitted(store, new_job(keys="same"))
    (artifact,) = claimed.reusable.values()

    with ThreadPoolExecutor(1) as threads:
        slow = JobStore(pausing, settings)
        recording = threads.submit(record, slow, claimed, Cached("a", artifact.id), settle=True)
        assert pausing.reached.wait(20)
        assert retention.drop_artifacts() == []  # drop_artifacts skips a locked artifact
        pausing.go_on.set()
        assert recording.result(20) is JobState.SUCCEEDED

    assert retention.drop_artifacts() == []
    assert store.get(ANN, claimed.id).artifacts["a"].blob_key == "artifacts/1"


def test_a_step_cannot_take_an_artifact_that_is_being_dropped(store, retention, clock, pausing):
    expired(store, retention, clock, keys="same", blob="artifacts/1")
    claimed = submitted(store, new_job(keys="same"))
    (artifact,) = claimed.reusable.values()

    with ThreadPoolExecutor(2) as threads:
        dropping = threads.submit(RetentionStore(pausing).drop_artifacts)
        assert pausing.reached.wait(20)
        recording = threads.submit(record, store, claimed, Cached("a", artifact.id), settle=True)
        time.sleep(0.2)
        assert not recording.done()
        pausing.go_on.set()
        assert dropping.result(20) == ["artifacts/1"]
        assert recording.result(20) is JobState.QUEUED

    assert states(store, claimed.id) == {"a": WAITING}


def test_a_step_that_makes_an_artifact_while_it_is_being_dropped_keeps_the_new_one(store, retention, clock, pausing):
    expired(store, retention, clock, keys="same", blob="artifacts/1")
    claimed = submitted(store, new_job(keys="same"))

    with ThreadPoolExecutor(2) as threads:
        dropping = threads.submit(RetentionStore(pausing).drop_artifacts)
        assert pausing.reached.wait(20)
        outcomes = Started("a"), Succeeded("a", stored(claimed, "a", "artifacts/2"), 1)
        recording = threads.submit(record, store, claimed, *outcomes, settle=True)
        time.sleep(0.2)
        pausing.go_on.set()
        assert dropping.result(20) == ["artifacts/1"]
        assert recording.result(20) is JobState.SUCCEEDED

    assert store.get(ANN, claimed.id).artifacts["a"].blob_key == "artifacts/2"


def test_taking_and_dropping_an_artifact_at_the_same_time_leaves_no_dangling_reference(store, retention, clock):
    for _ in range(10):
        expired(store, retention, clock, keys="same")
        submit(store, new_job(keys="same"))
        submit(store, new_job(keys="same"))
        claims = store.claim("d0", 2)
        ready = threading.Barrier(3)

        def refer(claimed, ready=ready) -> JobState:
            (artifact,) = claimed.reusable.values()
            ready.wait(10)
            return record(store, claimed, Cached("a", artifact.id), settle=True)

        def drop(ready=ready) -> list[str]:
            ready.wait(10)
            return retention.drop_artifacts()

        with ThreadPoolExecutor(3) as threads:
            ended = [threads.submit(refer, claimed) for claimed in claims]
            dropped = threads.submit(drop).result()
            found = {one.result() for one in ended}

        wanted = (WAITING, 0) if dropped else (CACHED, 1)
        assert found == {JobState.QUEUED if dropped else JobState.SUCCEEDED}
        for claimed in claims:
            view = store.get(ANN, claimed.id)
            assert (view.steps[0].state, len(view.artifacts)) == wanted
        clock.database.execute("DELETE FROM job")
        clock.database.execute("DELETE FROM artifact")


# Files


def test_a_blob_is_referenced_by_an_artifact_or_by_a_job_that_has_not_expired(store, retention, clock):
    done(store, blob="artifacts/1")
    keys = ["artifacts/1", "artifacts/2", "sources/x", "sources/y"]

    assert retention.unreferenced(keys) == {"artifacts/2", "sources/y"}
    assert retention.unreferenced([]) == set()

    clock.database.execute("UPDATE job SET state = 'expired'")
    assert retention.unreferenced(keys) == {"artifacts/2", "sources/x", "sources/y"}


def test_the_source_of_two_jobs_is_referenced_while_one_of_them_is_kept(store, retention, clock):
    expired(store, retention, clock)
    submit(store, new_job(owner=BOB))

    assert retention.unreferenced(["sources/x"]) == set()


def test_artifacts_are_found_by_ranges_of_the_bytes_of_their_keys(store, retention):
    for key in ("artifacts/B", "artifacts/a", "artifacts/a-1", "artifacts/a/1", "artifacts/ä"):
        done(store, blob=key)
    retention.mark_lost("artifacts/a-1")

    assert list(retention.artifacts_between("", None).items()) == [
        ("artifacts/B", False),
        ("artifacts/a", False),
        ("artifacts/a-1", True),
        ("artifacts/a/1", False),
        ("artifacts/ä", False),
    ]
    assert list(retention.artifacts_between("artifacts/B", "artifacts/a/1")) == [
        "artifacts/a", "artifacts/a-1", "artifacts/a/1",
    ]  # fmt: skip
    assert retention.artifacts_between("artifacts/a", "artifacts/a") == {}


def test_a_lost_artifact_is_not_offered_until_it_is_found(store, retention):
    claimed = done(store, keys="same", blob="artifacts/1")
    version = store.status(ANN, claimed.id).version

    retention.mark_lost("artifacts/1")

    assert store.status(ANN, claimed.id).version > version
    assert store.get(ANN, claimed.id).artifacts["a"].lost_at is not None
    assert submitted(store, new_job(keys="same")).reusable == {}

    retention.mark_found("artifacts/1")

    assert store.get(ANN, claimed.id).artifacts["a"].lost_at is None
    assert len(submitted(store, new_job(keys="same")).reusable) == 1


def test_the_next_job_that_makes_a_lost_artifact_restores_it_for_all_jobs(store, retention):
    first = done(store, keys="same", blob="artifacts/1")
    retention.mark_lost("artifacts/1")

    second = done(store, keys="same", blob="artifacts/2")

    artifacts = [store.get(ANN, claimed.id).artifacts["a"] for claimed in (first, second)]
    assert [(artifact.blob_key, artifact.lost_at) for artifact in artifacts] == [("artifacts/2", None)] * 2
    assert artifacts[0].id == artifacts[1].id
    assert retention.unreferenced(["artifacts/1", "artifacts/2"]) == {"artifacts/1"}


def test_a_database_that_cannot_be_reached_is_down(nowhere):
    database = Database(nowhere)
    retention = RetentionStore(database)

    for call in (
        retention.now,
        retention.expire_jobs,
        retention.drop_artifacts,
        lambda: retention.delete_expired_jobs(timedelta()),
        lambda: retention.unreferenced([str(uuid.uuid4())]),
        lambda: retention.artifacts_between("", None),
        lambda: retention.mark_lost("x"),
    ):
        with pytest.raises(DatabaseDown):
            call()
    database.close()
