"""The invariants of the stores, with one example for each.

Each docstring states an invariant. The test fails if the code that guards the invariant is removed.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import timedelta

import psycopg
import pytest
import state_guards
from databases import HookedDatabase
from jobs import (
    ANN,
    BOB,
    CHAIN,
    Clock,
    asked,
    claim,
    everything,
    fail,
    finish,
    history,
    job_row,
    new_job,
    record,
    states,
    stored,
    submit,
    submitted,
)

from pixtools.blob_store import ARTIFACTS, BlobStore
from pixtools.database.job_store import JobStore
from pixtools.database.reconciler import Reconciler
from pixtools.errors import (
    CorruptImage,
    DatabaseDown,
    DeadLetterClosed,
    JobEnded,
    KeyReused,
    LeaseLost,
    NotFound,
    StorageDown,
    StorageRefused,
)
from pixtools.jobs.dead_letters import DeadLetterSelection
from pixtools.jobs.outcomes import Cached, Crashed, Failed, Started, Succeeded
from pixtools.jobs.views import Claim
from pixtools.states import DeadLetterState, JobState, StepState

WAITING, RUNNING, SUCCEEDED, FAILED = StepState.WAITING, StepState.RUNNING, StepState.SUCCEEDED, StepState.FAILED


def jobs(database: psycopg.Connection) -> int:
    return database.execute("SELECT count(*) FROM job").fetchone()[0]


def rescued(store: JobStore, clock: Clock) -> Claim:
    """Return a claim whose lease expired. The job is in the queue again, and its attempt number has not changed."""
    claimed = submitted(store)
    clock.end_lease(claimed.id)
    assert store.rescue() == [claimed.id]
    clock.end_backoff(claimed.id)
    return claimed


# Accepting a job


def test_requests_with_one_key_make_one_job(store, database):
    """A second request with the same idempotency key makes no job. It gets the stored bytes of the first response."""
    first = submit(store, request=asked())

    second = submit(store, request=asked())

    assert (second.body, second.job_id, second.replayed) == (first.body, first.job_id, True)
    assert jobs(database) == 1


def test_a_key_with_another_content_is_refused(store, database):
    """An idempotency key can be repeated only with the content of the first request."""
    submit(store, request=asked())

    with pytest.raises(KeyReused):
        submit(store, request=asked(content="other"))
    with pytest.raises(KeyReused):
        store.replay(asked(content="other"))
    assert jobs(database) == 1


@pytest.mark.parametrize("other", [asked(owner=BOB), asked(route="POST /api/process")], ids=["owner", "route"])
def test_a_key_of_another_owner_or_route_is_another_key(store, other):
    """A key belongs to one owner and one route. So an owner learns nothing about the keys of other owners."""
    submit(store, request=asked())

    assert store.replay(other) is None
    assert submit(store, new_job(owner=other.scope.owner), other).replayed is False


def test_a_job_exists_if_and_only_if_its_response_does(store, settings, database):
    """One transaction writes the job, its steps and the stored response. All of them exist, or none of them."""

    def abort() -> None:
        raise DatabaseDown("before the commit")

    hooked = HookedDatabase(settings, abort)
    with pytest.raises(DatabaseDown):
        submit(JobStore(hooked, settings), new_job(), asked())
    hooked.close()
    assert everything(database) == []

    accepted = submit(store, request=asked())

    assert store.get(ANN, accepted.job_id).job.state is JobState.QUEUED


# Claiming a job


def test_a_job_has_one_current_attempt(store, clock):
    """A claimed job cannot be claimed again before it is back in the queue. Each claim begins the next attempt."""
    submit(store)
    first = claim(store)
    assert store.claim("d1", 10) == []

    clock.end_lease(first.id)
    store.rescue()
    clock.end_backoff(first.id)

    assert (first.attempt, claim(store, "d1").attempt) == (1, 2)


def test_a_claim_does_not_wait_for_a_job_that_another_transaction_holds(store, settings):
    """A dispatcher skips jobs that another dispatcher is claiming at this moment."""
    held, free = submit(store).job_id, submit(store).job_id

    with psycopg.connect(settings.database_url.get_secret_value()) as other:
        other.execute("SELECT FROM job WHERE id = %s FOR UPDATE", [held])
        assert [claimed.id for claimed in store.claim("d0", 10)] == [free]


def test_a_job_is_not_claimed_before_its_backoff_ends(store, clock):
    """A job that is put back with a backoff is not available before the backoff ends."""
    claimed = submitted(store)
    record(store, claimed, Failed("a", StorageDown()), settle=True)
    clock.database.execute("UPDATE job SET available_at = now() + interval '1 minute'")

    assert store.claim("d0", 10) == []


# Holding a lease


def test_an_older_attempt_does_not_renew_the_lease_of_a_newer_one(store, clock):
    """Only the current attempt renews the lease. An older attempt learns that its lease is lost."""
    old = rescued(store, clock)
    new = claim(store, "d1")

    assert store.renew([(old.id, old.attempt)]) == set()
    assert store.renew([(new.id, new.attempt)]) == {(new.id, new.attempt)}


def test_the_lease_on_a_job_that_does_not_run_is_not_renewed(store, clock):
    """A dispatcher learns at its next renewal that its job was rescued or cancelled."""
    cancelled = submitted(store)
    store.cancel(ANN, cancelled.id)
    put_back = rescued(store, clock)

    assert store.renew([(put_back.id, put_back.attempt), (cancelled.id, cancelled.attempt)]) == set()


# Recording outcomes


@pytest.mark.parametrize("batch", [None, 1, 2])
@pytest.mark.parametrize("settle", [False, True])
def test_an_older_attempt_records_nothing_while_a_newer_one_runs(store, clock, settle, batch):
    """Outcomes are written only if their attempt is the current attempt of the job."""
    old = rescued(store, clock)
    new = claim(store, "d1")
    record(store, new, Started("a"), batch=1)
    before = everything(clock.database)

    with pytest.raises(LeaseLost):
        record(store, old, Succeeded("a", stored(old, "a"), 1), batch=batch, settle=settle)

    assert everything(clock.database) == before
    assert finish(store, new, "a", settle=True) is JobState.SUCCEEDED


@pytest.mark.parametrize("batch", [None, 1])
def test_an_attempt_whose_job_was_put_back_records_nothing(store, clock, batch):
    """A rescue ends the lease, even if no other dispatcher has claimed the job yet."""
    old = rescued(store, clock)
    before = everything(clock.database)

    with pytest.raises(LeaseLost):
        record(store, old, Started("a"), batch=batch)

    assert everything(clock.database) == before


def test_an_attempt_whose_job_was_cancelled_records_nothing(store, database):
    """A cancellation ends the lease. So the dispatcher can record no more outcomes."""
    claimed = submitted(store)
    record(store, claimed, Started("a"), batch=1)
    store.cancel(ANN, claimed.id)
    before = everything(database)

    for batch in (None, 1, 2):
        with pytest.raises(LeaseLost):
            record(store, claimed, Succeeded("a", stored(claimed, "a"), 1), batch=batch)

    assert everything(database) == before


def test_a_batch_is_written_once(store, database):
    """A batch whose commit was not confirmed can be sent again. It is still written only once."""
    claimed = submitted(store)
    record(store, claimed, Started("a"), Failed("a", StorageRefused()), batch=1)
    before = everything(database)

    record(store, claimed, Started("a"), Failed("a", StorageRefused()), batch=1)

    assert everything(database) == before


def test_a_step_is_done_only_after_it_started(store, database):
    """A step cannot move from waiting to succeeded, because states.py has no such move."""
    claimed = submitted(store)
    before = everything(database)

    with pytest.raises(RuntimeError, match="without having started"):
        record(store, claimed, Succeeded("a", stored(claimed, "a"), 1))

    assert everything(database) == before


def test_a_step_that_ended_stays_as_it_is(store):
    """A late outcome does not change a step that already has a result."""
    claimed = submitted(store, new_job(CHAIN))
    finish(store, claimed, "t")

    record(store, claimed, Started("t"), Failed("t", CorruptImage()))

    assert states(store, claimed.id)["t"] is SUCCEEDED


@pytest.fixture
def guarded(database: psycopg.Connection) -> Iterator[psycopg.Connection]:
    """A connection to the database. The database now refuses every move that states.py does not allow."""
    state_guards.install(database)
    yield database
    state_guards.remove(database)


def test_a_step_that_fails_before_it_starts_keeps_its_state(store, guarded):
    """No update sets the state of a waiting step to waiting, because states.py has no such move."""
    claimed = submitted(store)

    state = record(store, claimed, Failed("a", StorageRefused("The clock is wrong."), 3), settle=True)

    (step,) = store.get(ANN, claimed.id).steps
    assert (state, step.state, step.failures, step.run_ms) == (JobState.QUEUED, WAITING, 1, 3)
    assert step.error["detail"] == "The clock is wrong."
    assert history(guarded) == [(1, "failed", "storage_refused")]


def test_a_running_step_that_will_be_tried_again_waits(store, guarded):
    """A step may move from running to waiting, because states.py has this move."""
    claimed = submitted(store)

    record(store, claimed, Started("a"), Failed("a", StorageRefused()))

    assert (states(store, claimed.id), len(history(guarded))) == ({"a": WAITING}, 1)


# Artifacts


def test_a_step_takes_no_artifact_that_was_dropped_since_the_claim(store, retention, clock):
    """A step refers only to an existing artifact. Without an artifact, the step waits and runs in the next attempt."""
    first = submitted(store, new_job(keys="same"))
    finish(store, first, "a", settle=True)
    second = submitted(store, new_job(keys="same"))
    (artifact,) = second.reusable.values()
    clock.end_retention(first.id)
    retention.expire_jobs()
    assert retention.drop_artifacts() == ["blob"]

    state = record(store, second, Cached("a", artifact.id), settle=True)

    assert (state, states(store, second.id)) == (JobState.QUEUED, {"a": WAITING})


def test_a_step_takes_no_artifact_whose_blob_is_missing(store, retention):
    """No claim offers an artifact that is marked as lost, and no step takes such an artifact."""
    finish(store, submitted(store, new_job(keys="same")), "a", settle=True)
    early = submitted(store, new_job(keys="same"))
    (artifact,) = early.reusable.values()

    retention.mark_lost("blob")

    record(store, early, Cached("a", artifact.id))
    assert states(store, early.id) == {"a": WAITING}
    assert submitted(store, new_job(keys="same")).reusable == {}


def test_an_owner_is_offered_no_artifact_of_another(store):
    """Jobs share artifacts only with jobs of the same owner."""
    finish(store, submitted(store, new_job(keys="same")), "a", settle=True)

    submit(store, new_job(keys="same", owner=BOB))

    assert claim(store).reusable == {}


def test_an_artifact_to_which_a_step_refers_is_not_dropped(store, retention):
    """A step that succeeded keeps its artifact until its job expires."""
    finish(store, submitted(store), "a", settle=True)

    assert retention.drop_artifacts() == []


# Failures


def test_bad_input_is_not_tried_again(store):
    """A step with an error that is not retryable fails permanently and gets a dead letter."""
    claimed = submitted(store)

    assert fail(store, claimed, "a", settle=True) is JobState.FAILED
    assert states(store, claimed.id) == {"a": FAILED}


def test_a_step_fails_permanently_after_its_last_attempt(store, letters, settings):
    """A step that failed permanently gets a dead letter and no further try."""
    claimed = submitted(store)
    for _ in range(settings.max_attempts - 1):
        record(store, claimed, Started("a"), Failed("a", StorageRefused()))
    assert states(store, claimed.id) == {"a": WAITING}

    record(store, claimed, Started("a"), Failed("a", StorageRefused()))

    assert states(store, claimed.id) == {"a": FAILED}
    assert letters.counts()[DeadLetterState.WAITING] == 1


def test_a_try_during_an_outage_is_not_counted(store, settings):
    """A server that is down never makes a step fail permanently."""
    claimed = submitted(store)

    for _ in range(settings.max_attempts + 1):
        record(store, claimed, Started("a"), Failed("a", StorageDown()))

    (step,) = store.get(ANN, claimed.id).steps
    assert (step.state, step.failures) == (WAITING, 0)


def test_a_step_fails_permanently_after_its_last_crash(store, settings):
    """A step that crashes its converters too often fails permanently. Crashes and failures are counted separately."""
    claimed = submitted(store)
    for _ in range(settings.max_crashes - 1):
        record(store, claimed, Started("a"), Crashed("a"))
    assert states(store, claimed.id) == {"a": WAITING}

    record(store, claimed, Started("a"), Crashed("a"))

    (step,) = store.get(ANN, claimed.id).steps
    assert (step.state, step.crashes, step.failures) == (FAILED, settings.max_crashes, 0)


def test_the_steps_that_read_a_failed_step_are_skipped(store):
    """No step waits for a result that will never come. So the job ends."""
    claimed = submitted(store, new_job(CHAIN))

    fail(store, claimed, "t")

    skipped = dict.fromkeys("abz", StepState.SKIPPED)
    assert states(store, claimed.id) == {"t": FAILED, **skipped, "other": WAITING}


# Rescue


def test_a_job_whose_lease_holds_is_not_rescued(store):
    """The sweeper takes no job from a dispatcher that is alive."""
    claimed = submitted(store)

    assert store.rescue() == []
    assert store.get(ANN, claimed.id).job.state is JobState.RUNNING


def test_recording_and_renewing_extend_the_lease(store, clock):
    """A dispatcher extends its lease when it records outcomes or renews. So it keeps its jobs while it is alive."""
    renewed, recorded = submitted(store), submitted(store)
    for claimed in (renewed, recorded):
        clock.end_lease(claimed.id)

    store.renew([(renewed.id, renewed.attempt)])
    record(store, recorded, Started("a"))

    assert store.rescue() == []


def test_a_rescue_is_a_crash_of_the_job_and_no_failure_of_a_step(store, clock):
    """Rescues and failed tries are counted separately."""
    claimed = submitted(store)
    record(store, claimed, Started("a"))
    clock.end_lease(claimed.id)

    store.rescue()

    (step,) = store.get(ANN, claimed.id).steps
    assert job_row(clock.database, claimed.id).crashes == 1
    assert (step.state, step.failures, step.crashes) == (WAITING, 0, 0)


def test_a_job_whose_dispatchers_die_too_often_fails_permanently(store, letters, clock, settings):
    """If too many dispatchers of a job die, each open step fails permanently and gets a dead letter."""
    job_id = submit(store).job_id
    for _ in range(settings.max_crashes):
        clock.end_backoff(job_id)
        claim(store)
        clock.end_lease(job_id)
        store.rescue()

    assert store.get(ANN, job_id).job.state is JobState.FAILED
    assert letters.counts()[DeadLetterState.WAITING] == 1


# Owners


def test_a_job_of_another_owner_does_not_exist(store, letters, database):
    """Only the owner of a job can read, cancel and retry the job."""
    claimed = submitted(store)
    fail(store, claimed, "a", settle=True)
    running = submitted(store)
    before = everything(database)

    for call in (store.get, store.status, store.cancel):
        with pytest.raises(NotFound):
            call(BOB, running.id)
    assert store.list_jobs(BOB, state=None, before=None, limit=10) == []
    assert letters.retry(BOB, claimed.id) is None
    assert everything(database) == before


def test_a_job_that_ended_cannot_be_cancelled(store, database):
    """A job that ended keeps its state and its results."""
    claimed = submitted(store)
    finish(store, claimed, "a", settle=True)
    before = everything(database)

    with pytest.raises(JobEnded):
        store.cancel(ANN, claimed.id)

    assert everything(database) == before


# Dead letters


def test_a_dead_letter_is_redriven_once(store, letters, database):
    """A repeated redrive changes nothing."""
    fail(store, submitted(store), "a", settle=True)
    (letter,) = letters.request_redrive(ANN, DeadLetterSelection())
    assert letters.redrive(letter).letters == 1
    before = everything(database)

    assert letters.redrive(letter) is None

    assert everything(database) == before


def test_a_dead_letter_is_not_redriven_without_a_request(store, letters, database):
    """The dead-letter queue redrives a dead letter only after the owner has requested the redrive."""
    fail(store, submitted(store), "a", settle=True)
    (view,) = letters.page(ANN, DeadLetterSelection(), states=list(DeadLetterState), before=None, limit=10)
    before = everything(database)

    assert letters.redrive(view.letter.id) is None

    assert everything(database) == before


def test_cancelling_a_job_discards_its_dead_letters(store, letters):
    """A cancelled job has no open dead letter, so its owner has nothing to decide."""
    claimed = submitted(store, new_job(CHAIN))
    fail(store, claimed, "t")

    store.cancel(ANN, claimed.id)

    assert letters.counts() == dict.fromkeys(DeadLetterState, 0) | {DeadLetterState.DISCARDED: 1}


@pytest.mark.parametrize("state", ["cancelled", "expired"])
def test_a_job_that_was_cancelled_or_has_expired_is_not_redriven(store, letters, database, state):
    """A cancelled or expired job never runs again, even if a redrive was requested earlier."""
    claimed = submitted(store)
    fail(store, claimed, "a", settle=True)
    (letter,) = letters.request_redrive(ANN, DeadLetterSelection())
    database.execute("UPDATE job SET state = %s", [state])

    assert letters.redrive(letter) is None

    assert store.get(ANN, claimed.id).job.state == state
    assert letters.counts()[DeadLetterState.DISCARDED] == 1


def test_a_decision_about_a_dead_letter_is_final(store, letters):
    """A redriven or discarded dead letter cannot be changed again."""
    fail(store, submitted(store), "a", settle=True)
    (view,) = letters.page(ANN, DeadLetterSelection(), states=list(DeadLetterState), before=None, limit=10)
    chosen = DeadLetterSelection(id=view.letter.id)
    letters.discard(ANN, chosen)

    for decide in (letters.request_redrive, letters.discard):
        with pytest.raises(DeadLetterClosed):
            decide(ANN, chosen)


def test_an_owner_decides_about_no_dead_letter_of_another(store, letters):
    """For an owner, the dead letters of other owners do not exist."""
    fail(store, submitted(store), "a", settle=True)

    assert letters.request_redrive(BOB, DeadLetterSelection()) == []
    assert letters.discard(BOB, DeadLetterSelection()) == 0
    assert letters.page(BOB, DeadLetterSelection(), states=list(DeadLetterState), before=None, limit=10) == []


def test_each_decision_is_in_the_history_of_its_step(store, letters, database):
    """Each redrive and each discard is recorded."""
    claimed = submitted(store)
    fail(store, claimed, "a", settle=True)
    letters.retry(ANN, claimed.id)
    fail(store, claim(store), "a", settle=True)
    letters.discard(ANN, DeadLetterSelection())

    kinds = [kind for _, kind, _ in history(database)]
    assert kinds == ["failed", "buried", "redriven", "failed", "buried", "discarded"]


# Retention


def test_a_job_that_has_not_ended_does_not_expire(store, retention, clock):
    """Only jobs that have ended expire."""
    clock.end_retention(submitted(store).id)

    assert retention.expire_jobs() == []


def test_a_job_with_an_open_dead_letter_does_not_expire(store, retention, clock):
    """While a step may still be redriven, the source is kept."""
    claimed = submitted(store)
    fail(store, claimed, "a", settle=True)
    clock.end_retention(claimed.id)

    assert retention.expire_jobs() == []


def test_a_job_does_not_expire_before_its_retention_ends(store, retention):
    """Results are kept until the time that the owner was told."""
    finish(store, submitted(store), "a", settle=True)

    assert retention.expire_jobs() == []


def test_the_blobs_of_a_job_that_is_kept_are_referenced(store, retention):
    """No blob is deleted while records refer to it."""
    finish(store, submitted(store, new_job(parts=("logo",))), "a", settle=True)

    assert retention.unreferenced(["sources/x", "sources/x-logo", "blob", "orphan"]) == {"orphan"}


@pytest.fixture
def bucket(own_bucket):
    return BlobStore(own_bucket)


def test_a_new_blob_is_not_an_orphan(retention, own_bucket, bucket):
    """A blob is stored before its record. While a blob is younger than `orphan_age`, its record may still follow."""
    bucket.put(f"{ARTIFACTS}new", b"data", "image/png")

    assert Reconciler(own_bucket, retention, bucket).run().orphans == 0

    at_once = own_bucket.model_copy(update={"orphan_age": timedelta()})
    assert Reconciler(at_once, retention, bucket).run().orphans == 1


def test_a_missing_blob_is_found(store, retention, own_bucket, bucket):
    """Each artifact of a succeeded step either has its blob or is marked as lost."""
    bucket.put(f"{ARTIFACTS}there", b"data", "image/png")
    for name in ("there", "missing"):
        claimed = submitted(store)
        artifact = stored(claimed, "a", f"{ARTIFACTS}{name}")
        record(store, claimed, Started("a"), Succeeded("a", artifact, 1), settle=True)

    assert Reconciler(own_bucket, retention, bucket).run().lost == 1
    assert retention.artifacts_between("", None) == {f"{ARTIFACTS}missing": True, f"{ARTIFACTS}there": False}


def test_nothing_is_deleted_in_the_bucket_of_another_database(retention, own_bucket, bucket):
    """The records of one database say nothing about the blobs of another database."""
    bucket.put("database", str(uuid.uuid4()).encode(), "text/plain")
    bucket.put(f"{ARTIFACTS}theirs", b"data", "image/png")
    at_once = own_bucket.model_copy(update={"orphan_age": timedelta()})

    assert Reconciler(at_once, retention, bucket).run().orphans == 0
    assert bucket.exists(f"{ARTIFACTS}theirs")
