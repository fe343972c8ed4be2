"""Outcomes of steps: the new state of the step, when the step is tried again, and how the job ends."""

from __future__ import annotations

import pytest
from jobs import ANN, BOB, CHAIN, Clock, claim, finish, job_row, new_job, record, states, stored, submit, submitted

from pixtools.database.job_store import JobStore
from pixtools.errors import CorruptImage, DatabaseDown, Fault, StorageDown, StorageRefused
from pixtools.jobs.outcomes import Cached, Crashed, Failed, Started, Succeeded
from pixtools.jobs.views import Claim
from pixtools.states import JobState, StepState

WAITING, RUNNING, SUCCEEDED = StepState.WAITING, StepState.RUNNING, StepState.SUCCEEDED
FAILED, SKIPPED, CACHED = StepState.FAILED, StepState.SKIPPED, StepState.CACHED

CORRUPT = CorruptImage("It is damaged.", (Fault("/file", "ends too soon"),))


def step_of(store: JobStore, claimed: Claim, name: str = "a"):
    (step,) = (step for step in store.get(ANN, claimed.id).steps if step.name == name)
    return step


def letters(clock: Clock) -> list[tuple]:
    query = "SELECT step, attempt, error->>'code', owner FROM dead_letter ORDER BY id"
    return clock.database.execute(query).fetchall()


def test_a_step_that_started_is_running(store):
    claimed = submitted(store)

    assert record(store, claimed, Started("a")) is JobState.RUNNING

    step = step_of(store, claimed)
    assert (step.state, step.attempt) == (RUNNING, 1)
    assert step.started_at is not None


def test_a_step_that_is_done_has_its_artifact(store):
    claimed = submitted(store)

    record(store, claimed, Started("a"), Succeeded("a", stored(claimed, "a"), 42))

    step = step_of(store, claimed)
    assert (step.state, step.run_ms, step.error) == (SUCCEEDED, 42, None)
    assert step.artifact_id == store.get(ANN, claimed.id).artifacts["a"].id


def test_a_step_whose_result_is_only_pixels_has_no_artifact(store):
    claimed = submitted(store)

    record(store, claimed, Started("a"), Succeeded("a", None, 5))

    step = step_of(store, claimed)
    assert (step.state, step.artifact_id) == (SUCCEEDED, None)


def test_a_cached_step_did_not_run_and_has_the_existing_artifact(store):
    first = submitted(store, new_job(keys="same"))
    finish(store, first, "a", settle=True)
    claimed = submitted(store, new_job(keys="same"))
    (artifact,) = claimed.reusable.values()

    assert record(store, claimed, Cached("a", artifact.id), settle=True) is JobState.SUCCEEDED

    step = step_of(store, claimed)
    assert (step.state, step.started_at, step.run_ms) == (CACHED, None, None)
    assert store.get(ANN, claimed.id).artifacts["a"].id == artifact.id


def test_a_step_whose_pixels_no_step_needs_is_cached_without_an_artifact(store):
    claimed = submitted(store)

    assert record(store, claimed, Cached("a", None), settle=True) is JobState.SUCCEEDED
    assert states(store, claimed.id) == {"a": CACHED}


def test_the_outcomes_of_one_call_are_applied_in_order(store):
    claimed = submitted(store, new_job(CHAIN))

    record(
        store,
        claimed,
        Started("t"),
        Succeeded("t", None, 1),
        Started("a"),
        Succeeded("a", stored(claimed, "a"), 1),
        Started("b"),
    )

    assert states(store, claimed.id) == {"t": SUCCEEDED, "a": SUCCEEDED, "b": RUNNING, "z": WAITING, "other": WAITING}


def test_a_step_that_ended_keeps_its_state(store):
    claimed = submitted(store, new_job(CHAIN))
    finish(store, claimed, "other")
    before = step_of(store, claimed, "other")

    record(store, claimed, Started("other"))
    record(store, claimed, Cached("other", None))
    record(store, claimed, Failed("other", CORRUPT))

    after = step_of(store, claimed, "other")
    assert (after.state, after.artifact_id, after.error) == (SUCCEEDED, before.artifact_id, None)


def test_bad_input_is_not_tried_again_and_makes_a_dead_letter(store, clock):
    claimed = submitted(store)

    assert record(store, claimed, Started("a"), Failed("a", CORRUPT, 3), settle=True) is JobState.FAILED

    step = step_of(store, claimed)
    assert (step.state, step.run_ms, step.error) == (FAILED, 3, CORRUPT.problem())
    assert letters(clock) == [("a", 1, "corrupt_image", ANN)]


def test_a_step_can_fail_before_it_starts(store, clock):
    claimed = submitted(store)

    assert record(store, claimed, Failed("a", CORRUPT), settle=True) is JobState.FAILED
    assert len(letters(clock)) == 1


def test_the_steps_that_read_a_failed_step_are_skipped_and_the_others_continue(store, clock):
    claimed = submitted(store, new_job(CHAIN))

    record(store, claimed, Started("t"), Failed("t", CORRUPT))

    assert states(store, claimed.id) == {"t": FAILED, "a": SKIPPED, "b": SKIPPED, "z": SKIPPED, "other": WAITING}
    assert [step for step, *_ in letters(clock)] == ["t"]
    assert finish(store, claimed, "other", settle=True) is JobState.PARTIAL


def test_one_failed_input_is_enough_to_skip_a_bundle(store):
    claimed = submitted(store, new_job(CHAIN))
    finish(store, claimed, "t", "a")

    record(store, claimed, Started("b"), Failed("b", CORRUPT))

    assert states(store, claimed.id) == {"t": SUCCEEDED, "a": SUCCEEDED, "b": FAILED, "z": SKIPPED, "other": WAITING}


def cached(store: JobStore, steps: dict[str, tuple[str, ...]], *names: str) -> Claim:
    """Submit a job whose steps `names` take their artifacts from an earlier job. Return the claim of the new job."""
    finish(store, submitted(store, new_job(dict.fromkeys(names, ("source",)), keys="same")), *names, settle=True)
    claimed = submitted(store, new_job(steps, keys="same"))
    artifacts = {step.name: claimed.reusable[step.key].id for step in claimed.view.steps if step.name in names}
    record(store, claimed, *(Cached(name, artifact) for name, artifact in artifacts.items()))
    return claimed


def test_a_cached_step_keeps_its_result_when_its_input_fails(store):
    claimed = cached(store, {"t": ("source",), "a": ("t",), "b": ("t",), "z": ("a",)}, "a")

    record(store, claimed, Started("t"), Failed("t", CORRUPT))

    assert states(store, claimed.id) == {"t": FAILED, "a": CACHED, "b": SKIPPED, "z": WAITING}


def test_a_job_succeeds_when_all_of_its_steps_are_done(store, database):
    claimed = submitted(store, new_job(CHAIN))

    assert finish(store, claimed, *CHAIN, settle=True) is JobState.SUCCEEDED

    job = job_row(database, claimed.id)
    assert (job.state, job.lease_until) == (JobState.SUCCEEDED, None)
    assert job.finished_at is not None


def test_a_retryable_failure_returns_the_step_and_its_job_to_waiting(store, clock):
    claimed = submitted(store)

    state = record(store, claimed, Started("a"), Failed("a", StorageRefused("The clock is wrong."), 9), settle=True)

    view = store.get(ANN, claimed.id)
    assert state is JobState.QUEUED
    assert (view.job.state, view.job.finished_at) == (JobState.QUEUED, None)
    assert job_row(clock.database, claimed.id).crashes == 0
    assert (view.steps[0].state, view.steps[0].failures) == (WAITING, 1)
    assert view.steps[0].error["code"] == "storage_refused"
    assert letters(clock) == []
    assert clock.delay(claimed.id) <= 2


def test_a_job_is_tried_again_within_seconds_after_each_outage(store, clock):
    job_id = submit(store).job_id
    delays = []
    for _ in range(12):
        record(store, claim(store), Started("a"), Failed("a", StorageDown()), settle=True)
        delays.append(clock.delay(job_id))
        clock.end_backoff(job_id)

    assert max(delays) <= 8
    assert max(delays) - min(delays) > 0.1  # random, so that jobs do not all return at the same time


def test_a_job_waits_after_an_outage_even_if_its_converter_has_died_before(store, clock):
    """Without a pause, the job would be the first of the queue again, and would be claimed all the time."""
    job_id = submit(store).job_id
    record(store, claim(store), Started("a"), Crashed("a"), settle=True)
    assert clock.delay(job_id) <= 0
    delays = []
    for _ in range(12):
        record(store, claim(store), Started("a"), Failed("a", StorageDown()), settle=True)
        delays.append(clock.delay(job_id))
        clock.end_backoff(job_id)

    assert 0 < max(delays) <= 8


def test_the_delay_grows_with_the_failures_up_to_its_cap(store, clock):
    claimed = submitted(store)
    delays = []
    for failures in (3, 30):
        clock.database.execute("UPDATE step SET failures = %s", [failures])
        clock.database.execute("UPDATE job SET state = 'running'")
        record(store, claimed, settle=True)
        delays.append(clock.delay(claimed.id))

    assert delays[0] <= 8
    assert delays[1] <= 300


def test_the_delays_of_several_jobs_differ(store, clock):
    ids = [submit(store).job_id for _ in range(20)]
    clock.database.execute("UPDATE step SET failures = 20")
    for claimed in store.claim("d0", 20):
        record(store, claimed, settle=True)

    delays = [clock.delay(job_id) for job_id in ids]

    assert max(delays) - min(delays) > 60


def test_a_step_fails_permanently_after_the_last_of_its_attempts(store, clock, settings):
    job_id = submit(store, new_job(CHAIN)).job_id
    for attempt in range(1, settings.max_attempts + 1):
        claimed = claim(store)
        assert claimed.attempt == attempt
        if attempt == 1:
            finish(store, claimed, "other")
        state = record(store, claimed, Started("t"), Failed("t", StorageRefused()), settle=True)
        assert (state is JobState.QUEUED) == (attempt < settings.max_attempts)
        clock.end_backoff(job_id)

    assert state is JobState.PARTIAL
    assert states(store, job_id) == {"t": FAILED, "a": SKIPPED, "b": SKIPPED, "z": SKIPPED, "other": SUCCEEDED}
    assert letters(clock) == [("t", settings.max_attempts, "storage_refused", ANN)]


def test_a_try_during_an_outage_is_not_counted(store, clock, settings):
    job_id = submit(store).job_id
    for _ in range(settings.max_attempts + 3):
        state = record(store, claim(store), Started("a"), Failed("a", StorageDown()), settle=True)
        assert state is JobState.QUEUED
        clock.end_backoff(job_id)
    assert letters(clock) == []
    assert store.get(ANN, job_id).steps[0].failures == 0


@pytest.mark.parametrize("error", [StorageDown, DatabaseDown])
def test_an_outage_between_two_failures_does_not_reset_their_count(store, clock, settings, error):
    job_id = submit(store).job_id
    for _ in range(settings.max_attempts):
        record(store, claim(store), Started("a"), Failed("a", error()), settle=True)
        clock.end_backoff(job_id)
        state = record(store, claim(store), Started("a"), Failed("a", StorageRefused()), settle=True)
        clock.end_backoff(job_id)

    assert state is JobState.FAILED
    assert letters(clock) == [("a", 2 * settings.max_attempts, "storage_refused", ANN)]


def test_a_step_that_succeeds_after_a_retry_has_no_error(store, clock):
    claimed = submitted(store)
    record(store, claimed, Started("a"), Failed("a", StorageRefused()), settle=True)
    clock.end_backoff(claimed.id)

    assert finish(store, claim(store), "a", settle=True) is JobState.SUCCEEDED
    step = step_of(store, claimed)
    assert (step.error, step.attempt, step.failures) == (None, 2, 1)


def test_a_converter_that_dies_during_a_step_is_a_crash_and_not_a_failure(store, clock):
    claimed = submitted(store)

    assert record(store, claimed, Started("a"), Crashed("a"), settle=True) is JobState.QUEUED

    step = step_of(store, claimed)
    assert (step.state, step.crashes, step.failures) == (WAITING, 1, 0)
    assert job_row(clock.database, claimed.id).crashes == 0
    assert clock.delay(claimed.id) <= 0  # no delay, because another step may have caused the first crash


def test_a_step_waits_after_its_second_crash(store, clock):
    ids = [submit(store).job_id for _ in range(20)]
    clock.database.execute("UPDATE step SET crashes = 1")
    for claimed in store.claim("d0", 20):
        record(store, claimed, Started("a"), Crashed("a"), settle=True)

    delays = [clock.delay(job_id) for job_id in ids]

    assert 0 < max(delays) <= 2


def test_a_step_that_crashes_too_often_fails_permanently(store, clock, settings):
    job_id = submit(store).job_id
    for _ in range(settings.max_crashes):
        state = record(store, claim(store), Started("a"), Crashed("a"), settle=True)
        clock.end_backoff(job_id)

    assert state is JobState.FAILED
    assert states(store, job_id) == {"a": FAILED}
    assert letters(clock) == [("a", settings.max_crashes, "converter_crashed", ANN)]
    error = store.get(ANN, job_id).steps[0].error
    assert error["detail"].endswith(f": {settings.max_crashes}.")


def test_the_running_steps_of_an_attempt_that_is_settled_wait_again(store):
    claimed = submitted(store, new_job(CHAIN))
    finish(store, claimed, "t")

    assert record(store, claimed, Started("a"), settle=True) is JobState.QUEUED

    assert states(store, claimed.id) == {"t": SUCCEEDED, "a": WAITING, "b": WAITING, "z": WAITING, "other": WAITING}


def test_an_error_with_any_text_can_be_stored(store):
    claimed = submitted(store)
    odd = CorruptImage("half a pair \ud800, a NUL \0 and a \u202e")

    assert record(store, claimed, Failed("a", odd), settle=True) is JobState.FAILED
    assert step_of(store, claimed).error["code"] == "corrupt_image"


def test_jobs_with_one_step_key_share_the_first_artifact(store):
    first = submitted(store, new_job(keys="same"))
    second = submitted(store, new_job(keys="same"))

    record(store, first, Started("a"), Succeeded("a", stored(first, "a", blob="first"), 1), settle=True)
    record(store, second, Started("a"), Succeeded("a", stored(second, "a", blob="second"), 1), settle=True)

    artifacts = [store.get(ANN, claimed.id).artifacts["a"] for claimed in (first, second)]
    assert artifacts[0].id == artifacts[1].id
    assert artifacts[1].blob_key == "first"


def test_an_artifact_can_be_reused_only_by_its_owner(store):
    finish(store, submitted(store, new_job(keys="same")), "a", settle=True)

    mine = submitted(store, new_job(keys="same"))
    submit(store, new_job(keys="same", owner=BOB))
    theirs = claim(store)

    assert [artifact.blob_key for artifact in mine.reusable.values()] == ["blob"]
    assert theirs.reusable == {}


def test_two_owners_have_separate_artifacts_with_one_step_key(store, database):
    for owner in (ANN, BOB):
        submit(store, new_job(keys="same", owner=owner))
        finish(store, claim(store), "a", settle=True)

    assert database.execute("SELECT count(*), count(DISTINCT step_key) FROM artifact").fetchone() == (2, 1)


def test_a_claim_offers_artifacts_only_for_unfinished_steps(store, clock):
    claimed = submitted(store, new_job(CHAIN))
    finish(store, claimed, "t", "other")
    record(store, claimed, settle=True)
    clock.end_backoff(claimed.id)

    assert claim(store).reusable == {}


def test_an_artifact_with_another_step_key_is_not_offered(store):
    finish(store, submitted(store, new_job(keys="same")), "a", settle=True)

    assert submitted(store, new_job(keys="other")).reusable == {}


def test_a_job_that_ended_is_not_claimed_again(store):
    finish(store, submitted(store), "a", settle=True)

    assert store.claim("d0", 10) == []


def test_a_failure_in_one_job_leaves_the_job_of_another_owner_alone(store, clock):
    submit(store, new_job(CHAIN, owner=BOB))
    theirs = claim(store)
    mine = submitted(store, new_job(CHAIN))

    record(store, mine, Started("t"), Failed("t", CORRUPT), settle=False)

    assert set(states(store, theirs.id, BOB).values()) == {WAITING}
    assert [owner for *_, owner in letters(clock)] == [ANN]
