"""Dead letters: how to read and select them, and how a redrive or a discard changes steps and jobs."""

from __future__ import annotations

import threading
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

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

from pixtools.database.connection import Database
from pixtools.database.dead_letter_store import DeadLetterStore
from pixtools.database.job_store import JobStore
from pixtools.errors import DatabaseDown, DeadLetterClosed, NotFound, StepTimedOut, StorageRefused
from pixtools.jobs.dead_letters import DeadLetterSelection, DeadLetterView, Redriven
from pixtools.jobs.outcomes import Crashed, Failed, Started
from pixtools.jobs.views import Claim
from pixtools.states import DeadLetterState, JobState, StepState

WAITING, SUCCEEDED, FAILED, SKIPPED = StepState.WAITING, StepState.SUCCEEDED, StepState.FAILED, StepState.SKIPPED


def page(
    letters: DeadLetterStore, selection: DeadLetterSelection | None = None, owner: str = ANN
) -> list[DeadLetterView]:
    return letters.page(owner, selection or DeadLetterSelection(), states=list(DeadLetterState), before=None, limit=100)


def letter_states(letters: DeadLetterStore, selection: DeadLetterSelection | None = None) -> dict[str, str]:
    return {view.letter.step: view.letter.state for view in page(letters, selection)}


def failed(store: JobStore, steps: dict[str, tuple[str, ...]] | None = None, *failing: str, owner: str = ANN) -> Claim:
    """Return the claim of a job that has ended. Each step in `failing` has a dead letter. The default is step `a`."""
    submit(store, new_job(steps, owner=owner))
    claimed = claim(store)
    rest = [step for step in steps or {} if step not in failing]
    fail(store, claimed, *(failing or ("a",)))
    finish(store, claimed, *(step for step in rest if states(store, claimed.id, owner)[step] is WAITING), settle=True)
    return claimed


def redrive(
    letters: DeadLetterStore, selection: DeadLetterSelection | None = None, owner: str = ANN
) -> list[uuid.UUID]:
    """Request a redrive and perform it. Return the ids of the jobs."""
    asked = letters.request_redrive(owner, selection or DeadLetterSelection())
    return [done.job_id for letter in asked if (done := letters.redrive(letter))]


# Reading


def test_a_page_has_the_letters_of_the_owner_newest_first(store, letters):
    jobs = [failed(store).id for _ in range(3)]
    failed(store, owner=BOB)

    assert [view.letter.job_id for view in page(letters)] == jobs[::-1]
    assert page(letters, owner="nobody") == []


def test_a_letter_has_its_step_and_its_error(store, letters):
    claimed = failed(store, CHAIN, "t")

    (view,) = page(letters)

    letter = view.letter
    assert (letter.job_id, letter.step, letter.attempt) == (claimed.id, "t", 1)
    assert (letter.state, letter.error["code"]) == (DeadLetterState.WAITING, "corrupt_image")
    assert (view.op, view.source_name) == ("resize", "x.jpg")


def test_pages_of_letters_have_no_gap_and_no_repetition(store, letters):
    for _ in range(5):
        failed(store)
    wanted = [view.letter.id for view in page(letters)]

    seen: list[uuid.UUID] = []
    sizes = []
    for _ in range(4):
        before = seen[-1] if seen else None
        views = letters.page(ANN, DeadLetterSelection(), states=list(DeadLetterState), before=before, limit=2)
        sizes.append(len(views))
        seen += [view.letter.id for view in views]
        failed(store)  # a new letter must not shift the next page

    assert (seen, sizes) == (wanted, [2, 2, 1, 0])


def test_a_selection_matches_all_of_its_fields(store, letters):
    first, second = failed(store, CHAIN, "t", "other"), failed(store)
    claimed = submitted(store)
    record(store, claimed, Failed("a", StepTimedOut()), settle=True)

    def found(**fields) -> set[tuple[uuid.UUID, str]]:
        return {(view.letter.job_id, view.letter.step) for view in page(letters, DeadLetterSelection(**fields))}

    assert found(job=first.id) == {(first.id, "t"), (first.id, "other")}
    assert found(op="resize") == {(first.id, "t")}
    assert found(code="step_timed_out") == {(claimed.id, "a")}
    assert found(op="png", code="corrupt_image") == {(first.id, "other"), (second.id, "a")}
    assert found(job=first.id, op="png") == {(first.id, "other")}
    assert found(job=second.id, op="resize") == set()
    assert found(code="no_such_code") == set()
    (view,) = page(letters, DeadLetterSelection(job=second.id))
    assert found(id=view.letter.id) == {(second.id, "a")}


def test_letters_are_selected_by_their_states(store, letters):
    jobs = {state: failed(store).id for state in DeadLetterState}
    redrive(letters, DeadLetterSelection(job=jobs[DeadLetterState.REDRIVEN]))
    letters.request_redrive(ANN, DeadLetterSelection(job=jobs[DeadLetterState.REDRIVING]))
    letters.discard(ANN, DeadLetterSelection(job=jobs[DeadLetterState.DISCARDED]))

    for state in DeadLetterState:
        views = letters.page(ANN, DeadLetterSelection(), states=[state], before=None, limit=10)
        assert [view.letter.job_id for view in views] == [jobs[state]]
    assert letters.counts() == dict.fromkeys(DeadLetterState, 1)


def test_letters_are_counted_over_all_owners_in_every_state(store, letters):
    assert letters.counts() == dict.fromkeys(DeadLetterState, 0)
    failed(store)
    failed(store, owner=BOB)

    assert letters.counts() == dict.fromkeys(DeadLetterState, 0) | {DeadLetterState.WAITING: 2}


def test_a_page_of_letters_is_grouped_in_one_pass(store, letters, database, calls_in):
    """The limit is 20 calls for each event. A comparison with each letter would take 100 calls."""
    steps = {f"s{number:02}": ("source",) for number in range(50)}
    for _ in range(2):
        failed(store, steps, *steps)
    database.execute(
        "INSERT INTO step_event (job_id, step, attempt, what)"
        " SELECT job_id, name, 1, 'crashed' FROM step, generate_series(1, 48)"
    )

    views, calls = calls_in(lambda: page(letters))

    assert len(views) == 100
    assert {len(view.history) for view in views} == {50}
    assert calls < 20 * 100 * 50


# Requesting a redrive


def test_a_redrive_is_requested_once(store, letters, database):
    failed(store)
    (letter,) = letters.request_redrive(ANN, DeadLetterSelection())
    before = everything(database)

    assert letters.request_redrive(ANN, DeadLetterSelection()) == []
    assert letters.request_redrive(ANN, DeadLetterSelection(id=letter)) == []

    assert everything(database) == before
    assert letters.pending_redrives() == [letter]


def test_requesting_a_redrive_moves_no_step(store, letters):
    claimed = failed(store)

    letters.request_redrive(ANN, DeadLetterSelection())

    assert states(store, claimed.id) == {"a": FAILED}
    assert store.claim("d0", 10) == []


def test_the_earliest_request_is_redriven_first(store, letters):
    jobs = [failed(store).id for _ in range(3)]
    order = [jobs[1], jobs[2], jobs[0]]

    asked = [letter for job in order for letter in letters.request_redrive(ANN, DeadLetterSelection(job=job))]

    assert letters.pending_redrives() == asked


@pytest.mark.parametrize("decide", [DeadLetterStore.request_redrive, DeadLetterStore.discard])
def test_a_letter_that_was_redriven_or_discarded_is_closed(store, letters, decide):
    redriven, discarded = failed(store), failed(store)
    redrive(letters, DeadLetterSelection(job=redriven.id))
    letters.discard(ANN, DeadLetterSelection(job=discarded.id))

    for view in page(letters):
        with pytest.raises(DeadLetterClosed, match=view.letter.state):
            decide(letters, ANN, DeadLetterSelection(id=view.letter.id))
    assert not decide(letters, ANN, DeadLetterSelection())


@pytest.mark.parametrize("decide", [DeadLetterStore.request_redrive, DeadLetterStore.discard])
def test_an_owner_cannot_decide_about_the_letter_of_another_owner(store, letters, decide):
    claimed = failed(store)
    (view,) = page(letters)

    for owner, letter in ((BOB, view.letter.id), (ANN, uuid.uuid4())):
        with pytest.raises(NotFound, match=str(letter)):
            decide(letters, owner, DeadLetterSelection(id=letter))
    assert not decide(letters, BOB, DeadLetterSelection())
    assert not decide(letters, BOB, DeadLetterSelection(job=claimed.id))
    assert letter_states(letters) == {"a": DeadLetterState.WAITING}


def test_a_letter_whose_redrive_was_requested_can_be_discarded(store, letters):
    claimed = failed(store)
    (letter,) = letters.request_redrive(ANN, DeadLetterSelection())

    assert letters.discard(ANN, DeadLetterSelection(id=letter)) == 1

    assert letters.pending_redrives() == []
    assert letters.redrive(letter) is None
    assert states(store, claimed.id) == {"a": FAILED}


# Redriving


def test_a_redrive_resets_the_step_and_the_steps_skipped_because_of_it(store, letters, settings, database):
    claimed = failed(store, CHAIN, "t")
    assert store.get(ANN, claimed.id).job.state == JobState.PARTIAL
    version = store.status(ANN, claimed.id).version

    assert redrive(letters) == [claimed.id]

    view = store.get(ANN, claimed.id)
    assert (view.job.state, view.job.finished_at) == (JobState.QUEUED, None)
    assert job_row(database, claimed.id).crashes == 0
    assert view.job.version > version
    assert states(store, claimed.id) == dict.fromkeys("tabz", WAITING) | {"other": SUCCEEDED}
    again = claim(store)
    assert (again.id, again.attempt) == (claimed.id, 2)
    assert finish(store, again, "t", "a", "b", "z", settle=True) is JobState.SUCCEEDED
    job = store.get(ANN, claimed.id).job
    assert job.expires_at == job.finished_at + settings.job_retention


def test_a_redrive_resets_the_counters_of_the_step(store, letters, clock, settings):
    job_id = submit(store).job_id
    for _ in range(settings.max_crashes - 1):
        record(store, claim(store), Started("a"), Crashed("a"), settle=True)
        clock.end_backoff(job_id)
    for _ in range(settings.max_attempts):
        record(store, claim(store), Started("a"), Failed("a", StorageRefused(), 5), settle=True)
        clock.end_backoff(job_id)

    redrive(letters)

    (step,) = store.get(ANN, job_id).steps
    assert (step.failures, step.crashes, step.error, step.started_at, step.run_ms) == (0, 0, None, None, None)
    assert clock.delay(job_id) <= 0
    for _ in range(settings.max_attempts - 1):
        state = record(store, claim(store), Started("a"), Failed("a", StorageRefused()), settle=True)
        assert state is JobState.QUEUED
        clock.end_backoff(job_id)


def test_a_redrive_resets_the_crashes_of_the_job(store, letters, clock, settings):
    job_id = submit(store, new_job(CHAIN)).job_id

    def lose() -> None:
        record(store, claim(store), Started("t"))
        clock.end_lease(job_id)
        store.rescue()
        clock.database.execute("UPDATE job SET available_at = now()")

    for _ in range(settings.max_crashes):
        lose()
    assert store.get(ANN, job_id).job.state == JobState.FAILED

    assert redrive(letters) == [job_id]  # one redrive revives the steps of both letters
    for _ in range(settings.max_crashes - 1):
        lose()

    assert store.get(ANN, job_id).job.state == JobState.QUEUED


TWO_BAD = {"a": ("source",), "b": ("source",), "z": ("a", "b"), "y": ("a",)}


def test_a_reader_of_two_failed_steps_waits_again_when_both_are_redriven(store, letters):
    claimed = failed(store, TWO_BAD, "a", "b")
    assert states(store, claimed.id) == {"a": FAILED, "b": FAILED, "z": SKIPPED, "y": SKIPPED}
    second, first = (view.letter.id for view in page(letters))

    redrive(letters, DeadLetterSelection(id=first))
    assert states(store, claimed.id) == {"a": WAITING, "b": FAILED, "z": SKIPPED, "y": WAITING}

    redrive(letters, DeadLetterSelection(id=second))
    assert states(store, claimed.id) == dict.fromkeys("abzy", WAITING)


def test_all_requested_redrives_of_a_job_are_carried_out_together(store, letters):
    claimed = failed(store, TWO_BAD, "a", "b")
    other = failed(store)
    first, second, third = letters.request_redrive(ANN, DeadLetterSelection())

    assert letters.redrive(second) == Redriven(claimed.id, 2)
    assert letters.redrive(first) is None
    assert letters.pending_redrives() == [third]
    assert letters.redrive(third) == Redriven(other.id, 1)


@pytest.mark.parametrize("asked", [False, True], ids=["waiting", "to be redriven"])
def test_a_retry_redrives_all_open_letters_of_its_job_and_no_others(store, letters, asked):
    claimed, other = failed(store, TWO_BAD, "a", "b"), failed(store)
    if asked:
        letters.request_redrive(ANN, DeadLetterSelection(op="png"))

    assert letters.retry(ANN, claimed.id) == Redriven(claimed.id, 2)

    assert states(store, claimed.id) == dict.fromkeys("abzy", WAITING)
    assert states(store, other.id) == {"a": FAILED}
    assert letters.retry(ANN, claimed.id) is None


def test_a_job_without_an_open_letter_of_the_owner_cannot_be_retried(store, letters, database):
    done, discarded, theirs, cancelled = submitted(store), failed(store), failed(store, owner=BOB), submitted(store)
    finish(store, done, "a", settle=True)
    letters.discard(ANN, DeadLetterSelection())
    store.cancel(ANN, cancelled.id)
    before = everything(database)

    for job_id in (done.id, discarded.id, theirs.id, cancelled.id, uuid.uuid4()):
        assert letters.retry(ANN, job_id) is None

    assert everything(database) == before


def test_a_redrive_of_one_of_two_letters_leaves_the_other_open(store, letters):
    claimed = failed(store, TWO_BAD, "a", "b")
    (_, letter) = [view.letter.id for view in page(letters)]
    redrive(letters, DeadLetterSelection(id=letter))
    again = claim(store)
    assert finish(store, again, "a", "y", settle=True) is JobState.PARTIAL
    assert states(store, claimed.id) == {"a": SUCCEEDED, "b": FAILED, "z": SKIPPED, "y": SUCCEEDED}

    redrive(letters)

    assert states(store, claimed.id) == {"a": SUCCEEDED, "b": WAITING, "z": WAITING, "y": SUCCEEDED}
    assert finish(store, claim(store), "b", "z", settle=True) is JobState.SUCCEEDED


def test_a_step_redriven_while_its_job_runs_is_tried_in_the_next_attempt(store, letters, clock):
    claimed = submitted(store, new_job(CHAIN))
    fail(store, claimed, "t")
    version = store.status(ANN, claimed.id).version

    assert redrive(letters) == [claimed.id]

    view = store.get(ANN, claimed.id)
    assert (view.job.state, view.job.attempt) == (JobState.RUNNING, claimed.attempt)
    assert view.job.version > version
    assert finish(store, claimed, "other", settle=True) is JobState.QUEUED
    clock.end_backoff(claimed.id)
    assert finish(store, claim(store), "t", "a", "b", "z", settle=True) is JobState.SUCCEEDED


def test_a_step_redriven_while_its_job_is_queued_waits_with_it(store, letters, clock):
    claimed = submitted(store, new_job(CHAIN))
    record(store, claimed, Started("other"), Failed("other", StorageRefused()))
    fail(store, claimed, "t", settle=True)
    clock.database.execute("UPDATE job SET available_at = now() + interval '1 minute'")

    assert redrive(letters) == [claimed.id]

    assert states(store, claimed.id) == dict.fromkeys(CHAIN, WAITING)
    assert clock.delay(claimed.id) > 30  # the redrive does not shorten the backoff of the other step


def test_a_step_that_fails_permanently_again_gets_a_new_letter(store, letters):
    claimed = failed(store)
    redrive(letters)
    fail(store, claim(store), "a", settle=True)

    newer, older = (view.letter for view in page(letters))

    assert (older.state, older.attempt) == (DeadLetterState.REDRIVEN, 1)
    assert (newer.state, newer.attempt) == (DeadLetterState.WAITING, 2)
    assert redrive(letters) == [claimed.id]


def test_a_step_that_fails_permanently_twice_in_one_attempt_has_two_letters(store, letters, clock):
    claimed = submitted(store)
    clock.database.execute("UPDATE job SET crashes = 2")
    fail(store, claimed, "a")
    redrive(letters)
    clock.end_lease(claimed.id)

    store.rescue()  # this is the third crash, so the open steps fail permanently

    assert states(store, claimed.id) == {"a": FAILED}
    assert [view.letter.state for view in page(letters)] == [DeadLetterState.WAITING, DeadLetterState.REDRIVEN]


@pytest.mark.parametrize("end", ["cancelled", "expired"])
def test_a_redrive_in_a_job_that_was_cancelled_or_has_expired_discards_the_letter(store, letters, database, end):
    claimed = failed(store)
    (letter,) = letters.request_redrive(ANN, DeadLetterSelection())
    database.execute("UPDATE job SET state = %s", [end])  # like version 0001, which left the letters open

    assert letters.redrive(letter) is None

    assert letter_states(letters) == {"a": DeadLetterState.DISCARDED}
    assert states(store, claimed.id) == {"a": FAILED}
    assert history(database)[-1] == (1, "discarded", None)


def test_a_letter_is_redriven_once(store, letters, database):
    failed(store)
    (letter,) = letters.request_redrive(ANN, DeadLetterSelection())
    letters.redrive(letter)
    before = everything(database)

    assert letters.redrive(letter) is None
    assert letters.redrive(uuid.uuid4()) is None

    assert everything(database) == before


def test_a_letter_without_a_requested_redrive_is_not_redriven(store, letters, database):
    failed(store)
    (view,) = page(letters)
    before = everything(database)

    assert letters.redrive(view.letter.id) is None

    assert everything(database) == before


def test_of_many_redrives_of_one_letter_at_once_one_succeeds(store, letters, database):
    claimed = failed(store)
    (letter,) = letters.request_redrive(ANN, DeadLetterSelection())

    with ThreadPoolExecutor(5) as threads:
        answers = Counter(threads.map(letters.redrive, [letter] * 5))

    assert answers == {Redriven(claimed.id, 1): 1, None: 4}
    assert [what for _, what, _ in history(database)].count("redriven") == 1


# Discarding


def test_a_discarded_letter_leaves_its_step_failed(store, letters):
    claimed = failed(store, CHAIN, "t")

    assert letters.discard(ANN, DeadLetterSelection()) == 1
    assert letters.discard(ANN, DeadLetterSelection()) == 0

    assert letter_states(letters) == {"t": DeadLetterState.DISCARDED}
    assert states(store, claimed.id)["t"] is FAILED
    assert store.get(ANN, claimed.id).job.state == JobState.PARTIAL


def test_letters_are_discarded_by_selection(store, letters):
    first, second = failed(store), failed(store)

    assert letters.discard(ANN, DeadLetterSelection(job=first.id)) == 1

    assert letter_states(letters, DeadLetterSelection(job=second.id)) == {"a": DeadLetterState.WAITING}


def test_letters_can_be_redriven_retried_and_discarded_at_the_same_time(store, letters):
    for _ in range(20):
        job_id = failed(store, TWO_BAD, "a", "b").id
        asked = letters.request_redrive(ANN, DeadLetterSelection(code="corrupt_image"))
        ready = threading.Barrier(3)

        def redrive_all(asked=asked, ready=ready) -> None:
            ready.wait(10)
            for letter in asked:
                letters.redrive(letter)

        def retry(job_id=job_id, ready=ready) -> None:
            ready.wait(10)
            letters.retry(ANN, job_id)

        def discard_all(ready=ready) -> None:
            ready.wait(10)
            letters.discard(ANN, DeadLetterSelection())

        with ThreadPoolExecutor(3) as threads:
            for ended in [threads.submit(deed) for deed in (redrive_all, retry, discard_all)]:
                ended.result()  # a deadlock would raise DatabaseDown
        assert letters.pending_redrives() == []


# Housekeeping


def test_each_new_letter_is_counted_once_by_the_code_of_its_error(store, letters):
    failed(store)
    failed(store, TWO_BAD, "a", "b")
    record(store, submitted(store), Failed("a", StepTimedOut()), settle=True)

    assert letters.count_new() == {"corrupt_image": 3, "step_timed_out": 1}
    assert letters.count_new() == {}
    failed(store)
    assert letters.count_new() == {"corrupt_image": 1}


def test_letters_older_than_their_retention_are_deleted_and_their_jobs_stay(store, letters, database):
    old, new = failed(store), failed(store)
    database.execute("UPDATE dead_letter SET created_at = now() - interval '31 days' WHERE job_id = %s", [old.id])

    assert letters.delete_old(timedelta(days=30)) == 1
    assert letters.delete_old(timedelta(days=30)) == 0

    assert [view.letter.job_id for view in page(letters)] == [new.id]
    assert states(store, old.id) == {"a": FAILED}


def test_a_letter_whose_redrive_was_requested_is_not_deleted(store, letters, database):
    failed(store)
    asked = letters.request_redrive(ANN, DeadLetterSelection())
    database.execute("UPDATE dead_letter SET created_at = now() - interval '31 days'")

    assert letters.delete_old(timedelta(days=30)) == 0
    assert letters.pending_redrives() == asked


def test_a_database_that_cannot_be_reached_is_down(nowhere):
    database = Database(nowhere)
    letters = DeadLetterStore(database)

    for call in (
        letters.pending_redrives,
        letters.count_new,
        letters.counts,
        lambda: page(letters),
        lambda: letters.request_redrive(ANN, DeadLetterSelection()),
        lambda: letters.discard(ANN, DeadLetterSelection()),
        lambda: letters.redrive(uuid.uuid4()),
        lambda: letters.retry(ANN, uuid.uuid4()),
        lambda: letters.delete_old(timedelta()),
    ):
        with pytest.raises(DatabaseDown):
            call()
    database.close()
