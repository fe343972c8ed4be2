"""The reconciler on real stores: it deletes expired jobs and orphaned blobs, and finds missing blobs."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from jobs import ANN, claim, fail, new_job, record, states, stored, submit, submitted

from pixtools.blob_store import ARTIFACTS, DATABASE, SOURCES, BlobStore
from pixtools.database.connection import Database
from pixtools.database.job_store import JobStore
from pixtools.database.reconciler import Reconciled, Reconciler
from pixtools.database.retention_store import RetentionStore
from pixtools.errors import DatabaseDown, StorageDown
from pixtools.jobs.outcomes import Cached, Started, Succeeded
from pixtools.jobs.views import Claim
from pixtools.settings import Settings
from pixtools.states import JobState, StepState

NOTHING = Reconciled(expired=0, forgotten=0, dropped=0, orphans=0, lost=0, found=0)


@pytest.fixture
def bucket(own_bucket: Settings) -> Settings:
    """Settings of a service with a new bucket. A blob without a reference is an orphan at once."""
    return own_bucket.model_copy(update={"orphan_age": timedelta()})


@pytest.fixture
def blobs(bucket: Settings) -> BlobStore:
    return BlobStore(bucket)


@pytest.fixture
def run(bucket: Settings, retention: RetentionStore, blobs: BlobStore) -> Callable[[], Reconciled]:
    return Reconciler(bucket, retention, blobs).run


def accept(store: JobStore, blobs: BlobStore, keys: str = "") -> None:
    """Submit a job whose source is in storage."""
    blobs.put("sources/x", b"source", "image/jpeg")
    submit(store, new_job(keys=keys))


def make(store: JobStore, blobs: BlobStore, claimed: Claim, blob: str) -> JobState:
    """Store the artifact of a job's only step, and record that the step succeeded."""
    blobs.put(blob, b"artifact", "image/png")
    return record(store, claimed, Started("a"), Succeeded("a", stored(claimed, "a", blob), 1), settle=True)


def done(store: JobStore, blobs: BlobStore, blob: str, keys: str = "") -> Claim:
    """Return the claim of a succeeded job of one step. Its source and its artifact are in storage."""
    accept(store, blobs, keys)
    claimed = claim(store)
    make(store, blobs, claimed, blob)
    return claimed


def objects(blobs: BlobStore) -> list[str]:
    return [blob.key for prefix in (SOURCES, ARTIFACTS) for page in blobs.pages(prefix) for blob in page]


def test_an_empty_service_has_nothing_to_reconcile(run):
    assert run() == NOTHING


def test_blobs_with_a_reference_stay(store, blobs, run):
    done(store, blobs, "artifacts/1")

    assert run() == NOTHING

    assert objects(blobs) == ["sources/x", "artifacts/1"]


def test_orphaned_blobs_are_deleted(store, blobs, run):
    done(store, blobs, "artifacts/5")
    for key in ("artifacts/4", "artifacts/6", "artifacts/deep/er/5", "sources/w", "sources/y"):
        blobs.put(key, b"orphan", "image/png")
    blobs.put("elsewhere/1", b"neither source nor artifact", "image/png")

    assert run() == Reconciled(expired=0, forgotten=0, dropped=0, orphans=5, lost=0, found=0)

    assert objects(blobs) == ["sources/x", "artifacts/5"]
    assert blobs.exists("elsewhere/1")
    assert run() == NOTHING


def test_a_new_blob_without_a_reference_stays(blobs, bucket, retention):
    for key in ("sources/x", "artifacts/1"):
        blobs.put(key, b"new", "image/png")
    reconciler = Reconciler(bucket.model_copy(update={"orphan_age": timedelta(minutes=5)}), retention, blobs)

    assert reconciler.run() == NOTHING

    assert objects(blobs) == ["sources/x", "artifacts/1"]


def test_the_blobs_of_an_expired_job_are_deleted(store, blobs, run, clock):
    old, _ = done(store, blobs, "artifacts/1"), done(store, blobs, "artifacts/2")
    clock.database.execute("UPDATE job SET source_key = 'sources/old' WHERE id = %s", [old.id])
    blobs.put("sources/old", b"source", "image/jpeg")
    clock.end_retention(old.id)

    assert run() == Reconciled(expired=1, forgotten=0, dropped=1, orphans=0, lost=0, found=0)

    assert objects(blobs) == ["sources/x", "artifacts/2"]
    assert store.get(ANN, old.id).job.state == JobState.EXPIRED
    assert run() == NOTHING


def test_a_shared_source_stays_until_the_last_of_its_jobs_expires(store, blobs, run, clock):
    """In version 0001, the key of a source depended only on the content. So several jobs shared a source."""
    old, new = done(store, blobs, "artifacts/1"), done(store, blobs, "artifacts/2")
    clock.end_retention(old.id)
    run()
    assert blobs.exists("sources/x")

    clock.end_retention(new.id)
    run()
    assert objects(blobs) == []


def test_a_job_with_an_open_letter_keeps_its_source(store, blobs, run, clock):
    accept(store, blobs)
    claimed = claim(store)
    fail(store, claimed, "a", settle=True)
    clock.end_retention(claimed.id)

    assert run() == NOTHING

    assert objects(blobs) == ["sources/x"]


def test_an_artifact_shared_with_a_job_that_is_kept_stays(store, blobs, run, clock):
    old = done(store, blobs, "artifacts/1", keys="same")
    accept(store, blobs, keys="same")
    new = claim(store)
    record(store, new, Cached("a", store.get(ANN, old.id).artifacts["a"].id), settle=True)
    clock.end_retention(old.id)

    assert run().dropped == 0

    assert blobs.exists("artifacts/1")


def test_jobs_that_expired_long_ago_are_deleted(store, blobs, run, clock):
    done(store, blobs, "artifacts/1")
    clock.database.execute("UPDATE job SET expires_at = now() - interval '91 days'")

    assert run() == Reconciled(expired=1, forgotten=1, dropped=1, orphans=0, lost=0, found=0)

    assert objects(blobs) == []


def test_a_run_deletes_the_blobs_that_an_interrupted_run_released(store, blobs, run, clock, retention):
    claimed = done(store, blobs, "artifacts/1")
    clock.end_retention(claimed.id)
    retention.expire_jobs()
    retention.drop_artifacts()  # here the run is interrupted, before it deletes the blobs

    assert run() == Reconciled(expired=0, forgotten=0, dropped=0, orphans=2, lost=0, found=0)

    assert objects(blobs) == []


# Missing blobs


def test_an_artifact_without_its_blob_is_lost_and_not_reused(store, blobs, run):
    for blob in ("artifacts/1", "artifacts/2", "artifacts/3"):
        done(store, blobs, blob, keys=blob)
    blobs.delete(["artifacts/2", "artifacts/3"])

    assert run() == Reconciled(expired=0, forgotten=0, dropped=0, orphans=0, lost=2, found=0)
    assert run() == NOTHING

    reusable = [len(submitted(store, new_job(keys=f"artifacts/{number}")).reusable) for number in (1, 2, 3)]
    assert reusable == [1, 0, 0]


def test_the_artifacts_of_an_emptied_bucket_are_lost(store, blobs, run):
    done(store, blobs, "artifacts/1")
    blobs.delete(["artifacts/1", "sources/x"])

    assert run().lost == 1


def test_the_next_job_that_makes_a_lost_artifact_restores_it(store, blobs, run):
    first = done(store, blobs, "artifacts/1", keys="same")
    blobs.delete(["artifacts/1"])
    run()

    done(store, blobs, "artifacts/2", keys="same")

    artifact = store.get(ANN, first.id).artifacts["a"]
    assert (artifact.blob_key, artifact.lost_at) == ("artifacts/2", None)
    assert blobs.get(artifact.blob_key) == b"artifact"
    assert run() == NOTHING


def test_a_lost_artifact_whose_blob_exists_again_is_found(store, blobs, run):
    claimed = done(store, blobs, "artifacts/1", keys="same")
    blobs.delete(["artifacts/1"])
    run()
    blobs.put("artifacts/1", b"artifact", "image/png")  # as if restored from a backup

    assert run() == Reconciled(expired=0, forgotten=0, dropped=0, orphans=0, lost=0, found=1)
    assert run() == NOTHING

    assert store.get(ANN, claimed.id).artifacts["a"].lost_at is None
    assert len(submitted(store, new_job(keys="same")).reusable) == 1


def test_an_artifact_that_is_stored_during_the_listing_is_not_lost(store, blobs, retention, bucket):
    done(store, blobs, "artifacts/1")

    class Late(BlobStore):
        """A blob store that lists the bucket as if `artifacts/1` were not stored yet."""

        def pages(self, prefix: str):
            for page in super().pages(prefix):
                yield [blob for blob in page if blob.key != "artifacts/1"]

    assert Reconciler(bucket, retention, Late(bucket)).run() == NOTHING


# Outages


def test_a_run_without_storage_raises_and_the_next_run_completes_it(store, blobs, run, clock, retention, nowhere):
    claimed = done(store, blobs, "artifacts/1")
    clock.end_retention(claimed.id)

    with pytest.raises(StorageDown):
        Reconciler(nowhere, retention, BlobStore(nowhere)).run()
    assert objects(blobs) == ["sources/x", "artifacts/1"]

    run()
    assert objects(blobs) == []
    assert run() == NOTHING


def test_no_artifact_is_lost_when_storage_goes_down_between_two_calls(store, blobs, retention, bucket):
    done(store, blobs, "artifacts/1")
    done(store, blobs, "artifacts/2")
    blobs.delete(["artifacts/2"])

    class Failing(BlobStore):
        def exists(self, key: str) -> bool:
            raise StorageDown(key)

    with pytest.raises(StorageDown):
        Reconciler(bucket, retention, Failing(bucket)).run()
    assert retention.artifacts_between("", None) == {"artifacts/1": False, "artifacts/2": False}


def test_a_run_without_a_database_raises_and_deletes_nothing(store, blobs, bucket, nowhere):
    done(store, blobs, "artifacts/1")
    database = Database(nowhere)

    with pytest.raises(DatabaseDown):
        Reconciler(bucket, RetentionStore(database), blobs).run()

    database.close()
    assert objects(blobs) == ["sources/x", "artifacts/1"]


# Size


def test_all_pages_of_a_large_bucket_are_compared(store, blobs, run, database):
    def key(number: int) -> str:
        return f"artifacts/{ANN}/{number:05}/{number}.png"

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: blobs.put(key(number), b"", "image/png"), range(1_100)))
    for number in (0, 500, 999, 1_000, 1_099):
        claimed = submitted(store)
        record(store, claimed, Started("a"), Succeeded("a", stored(claimed, "a", key(number)), 1), settle=True)
    claimed = submitted(store)
    record(store, claimed, Started("a"), Succeeded("a", stored(claimed, "a", "artifacts/zoe/1.png"), 1), settle=True)
    assert states(store, claimed.id) == {"a": StepState.SUCCEEDED}

    pages = list(blobs.pages(ARTIFACTS))
    assert sum(map(len, pages)) == 1_100
    assert len(pages) > 1
    listed = [blob.key for page in pages for blob in page]
    assert listed == sorted(listed, key=str.encode)

    assert run() == Reconciled(expired=0, forgotten=0, dropped=0, orphans=1_095, lost=1, found=0)

    assert objects(blobs) == [key(number) for number in (0, 500, 999, 1_000, 1_099)]
    assert database.execute("SELECT blob_key FROM artifact WHERE lost_at IS NOT NULL").fetchall() == [
        ("artifacts/zoe/1.png",)
    ]


def test_nothing_is_deleted_or_marked_in_the_bucket_of_another_database(store, blobs, run, caplog):
    blobs.put(DATABASE, str(uuid.uuid4()).encode(), "text/plain")
    blobs.put(f"{SOURCES}theirs", b"a source", "image/jpeg")
    claimed = submitted(store)
    record(store, claimed, Started("a"), Succeeded("a", stored(claimed, "a", f"{ARTIFACTS}nowhere"), 1), settle=True)

    assert run() == NOTHING

    assert blobs.exists(f"{SOURCES}theirs")
    assert "belongs to another database" in caplog.text


def test_a_bucket_belongs_to_the_first_database_that_uses_it(blobs, run, retention):
    run()

    assert blobs.get(DATABASE).decode() == str(retention.database_id())
