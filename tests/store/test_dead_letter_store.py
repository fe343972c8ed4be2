"""Dead letters: who sees which, and what redriving and discarding do to steps and jobs."""

from __future__ import annotations

import threading
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from jobs import ANN, BOB, CHAIN, claim, everything, fail, finish, history, new_job, record, states, submit, submitted

from pixtools.database.connection import Database
from pixtools.database.dead_letter_store import DeadLetterStore, LetterView, Redriven, Selection
from pixtools.database.job_store import Claim, JobStore
from pixtools.errors import DatabaseDown, LetterClosed, NotFound, StepTimedOut, StorageRefused
from pixtools.jobs.outcomes import Began, Crashed, Failed
from pixtools.states import JobState, LetterState, StepState

WAITING, SUCCEEDED, FAILED, SKIPPED = StepState.WAITING, StepState.SUCCEEDED, StepState.FAILED, StepState.SKIPPED


def page(letters: DeadLetterStore, selection: Selection | None = None, owner: str = ANN) -> list[LetterView]:
    return letters.page(owner, selection or Selection(), states=list(LetterState), before=None, limit=100)


def letter_states(letters: DeadLetterStore, selection: Selection | None = None) -> dict[str, str]:
    return {view.letter.step: view.letter.state for view in page(letters, selection)}


def buried(store: JobStore, steps: dict[str, tuple[str, ...]] | None = None, *failing: str, owner: str = ANN) -> Claim:
    """Return the claim of a job that ended with dead letters of the steps that are `failing`."""
    submit(store, new_job(steps, owner=owner))
    claimed = claim(store)
    rest = [step for step in steps or {} if step not in failing]
    fail(store, claimed, *(failing or ("a",)))
    finish(store, claimed, *(step for step in rest if states(store, claimed.id, owner)[step] is WAITING), settle=True)
    return claimed


def redrive(letters: DeadLetterStore, selection: Selection | None = None, owner: str = ANN) -> list[uuid.UUID]:
    """Ask for a redrive, and carry it out; return the jobs."""
    asked = letters.ask_redrive(owner, selection or Selection())
    return [done.job_id for letter in asked if (done := letters.redrive(letter))]


# Reading


def test_letters_are_the_owners_own_newest_first(store, letters):
    jobs = [buried(store).id for _ in range(3)]
    buried(store, owner=BOB)

    assert [view.letter.job_id for view in page(letters)] == jobs[::-1]
    assert page(letters, owner="nobody") == []


def test_a_letter_says_what_was_given_up_and_why(store, letters):
    claimed = buried(store, CHAIN, "t")

    (view,) = page(letters)

    letter = view.letter
    assert (letter.owner, letter.job_id, letter.step, letter.attempt) == (ANN, claimed.id, "t", 1)
    assert (letter.state, letter.error["code"], letter.noted_at) == (LetterState.WAITING, "corrupt_image", None)
    assert (view.op, view.source_name) == ("resize", "x.jpg")


def test_a_cursor_walks_through_the_letters_without_gap_or_repetition(store, letters):
    for _ in range(5):
        buried(store)
    wanted = [view.letter.id for view in page(letters)]

    seen: list[uuid.UUID] = []
    sizes = []
    for _ in range(4):
        before = seen[-1] if seen else None
        views = letters.page(ANN, Selection(), states=list(LetterState), before=before, limit=2)
        sizes.append(len(views))
        seen += [view.letter.id for view in views]
        buried(store)  # what comes meanwhile does not move the pages

    assert (seen, sizes) == (wanted, [2, 2, 1, 0])


def test_letters_are_selected_by_all_that_is_said_of_them(store, letters):
    first, second = buried(store, CHAIN, "t", "other"), buried(store)
    claimed = submitted(store)
    record(store, claimed, Failed("a", StepTimedOut()), settle=True)

    def found(**facts) -> set[tuple[uuid.UUID, str]]:
        return {(view.letter.job_id, view.letter.step) for view in page(letters, Selection(**facts))}

    assert found(job=first.id) == {(first.id, "t"), (first.id, "other")}
    assert found(op="resize") == {(first.id, "t")}
    assert found(code="step_timed_out") == {(claimed.id, "a")}
    assert found(op="png", code="corrupt_image") == {(first.id, "other"), (second.id, "a")}
    assert found(job=first.id, op="png") == {(first.id, "other")}
    assert found(job=second.id, op="resize") == set()
    assert found(code="no_such_code") == set()
    (view,) = page(letters, Selection(job=second.id))
    assert found(id=view.letter.id) == {(second.id, "a")}


def test_letters_are_shown_by_their_states(store, letters):
    jobs = {state: buried(store).id for state in LetterState}
    redrive(letters, Selection(job=jobs[LetterState.REDRIVEN]))
    letters.ask_redrive(ANN, Selection(job=jobs[LetterState.REDRIVING]))
    letters.discard(ANN, Selection(job=jobs[LetterState.DISCARDED]))

    for state in LetterState:
        views = letters.page(ANN, Selection(), states=[state], before=None, limit=10)
        assert [view.letter.job_id for view in views] == [jobs[state]]
    assert letters.counts() == dict.fromkeys(LetterState, 1)


def test_letters_are_counted_over_all_owners_in_every_state(store, letters):
    assert letters.counts() == dict.fromkeys(LetterState, 0)
    buried(store)
    buried(store, owner=BOB)

    assert letters.counts() == dict.fromkeys(LetterState, 0) | {LetterState.WAITING: 2}


# Asking for a redrive


def test_a_redrive_is_asked_for_once(store, letters, database):
    buried(store)
    (letter,) = letters.ask_redrive(ANN, Selection())
    before = everything(database)

    assert letters.ask_redrive(ANN, Selection()) == []
    assert letters.ask_redrive(ANN, Selection(id=letter)) == []

    assert everything(database) == before
    assert letters.redriving() == [letter]


def test_asking_for_a_redrive_moves_no_step_yet(store, letters):
    claimed = buried(store)

    letters.ask_redrive(ANN, Selection())

    assert states(store, claimed.id) == {"a": FAILED}
    assert store.claim("d0", 10) == []


def test_those_who_wait_longest_are_redriven_first(store, letters):
    jobs = [buried(store).id for _ in range(3)]
    order = [jobs[1], jobs[2], jobs[0]]

    asked = [letter for job in order for letter in letters.ask_redrive(ANN, Selection(job=job))]

    assert letters.redriving() == asked


@pytest.mark.parametrize("decide", [DeadLetterStore.ask_redrive, DeadLetterStore.discard])
def test_a_letter_about_which_was_decided_is_closed(store, letters, decide):
    redriven, discarded = buried(store), buried(store)
    redrive(letters, Selection(job=redriven.id))
    letters.discard(ANN, Selection(job=discarded.id))

    for view in page(letters):
        with pytest.raises(LetterClosed, match=view.letter.state):
            decide(letters, ANN, Selection(id=view.letter.id))
    assert not decide(letters, ANN, Selection())


@pytest.mark.parametrize("decide", [DeadLetterStore.ask_redrive, DeadLetterStore.discard])
def test_nobody_decides_about_the_letter_of_another(store, letters, decide):
    claimed = buried(store)
    (view,) = page(letters)

    for owner, letter in ((BOB, view.letter.id), (ANN, uuid.uuid4())):
        with pytest.raises(NotFound, match=str(letter)):
            decide(letters, owner, Selection(id=letter))
    assert not decide(letters, BOB, Selection())
    assert not decide(letters, BOB, Selection(job=claimed.id))
    assert letter_states(letters) == {"a": LetterState.WAITING}


def test_a_redrive_that_was_asked_for_can_still_be_discarded(store, letters):
    claimed = buried(store)
    (letter,) = letters.ask_redrive(ANN, Selection())

    assert letters.discard(ANN, Selection(id=letter)) == 1

    assert letters.redriving() == []
    assert letters.redrive(letter) is None
    assert states(store, claimed.id) == {"a": FAILED}


# Redriving


def test_a_redrive_puts_the_step_and_what_was_skipped_for_it_back(store, letters, settings):
    claimed = buried(store, CHAIN, "t")
    assert store.get(ANN, claimed.id).job.state == JobState.PARTIAL
    version = store.version(ANN, claimed.id)

    assert redrive(letters) == [claimed.id]

    view = store.get(ANN, claimed.id)
    assert (view.job.state, view.job.finished_at, view.job.crashes) == (JobState.QUEUED, None, 0)
    assert view.job.version > version
    assert states(store, claimed.id) == dict.fromkeys("tabz", WAITING) | {"other": SUCCEEDED}
    again = claim(store)
    assert (again.id, again.attempt) == (claimed.id, 2)
    assert finish(store, again, "t", "a", "b", "z", settle=True) is JobState.SUCCEEDED
    job = store.get(ANN, claimed.id).job
    assert job.expires_at == job.finished_at + settings.job_retention


def test_a_step_that_is_redriven_is_as_good_as_new(store, letters, clock, settings):
    job_id = submit(store).job_id
    for _ in range(settings.max_crashes - 1):
        record(store, claim(store), Began("a"), Crashed("a"), settle=True)
        clock.end_backoff(job_id)
    for _ in range(settings.max_attempts):
        record(store, claim(store), Began("a"), Failed("a", StorageRefused(), 5), settle=True)
        clock.end_backoff(job_id)

    redrive(letters)

    (step,) = store.get(ANN, job_id).steps
    assert (step.failures, step.crashes, step.error, step.started_at, step.run_ms) == (0, 0, None, None, None)
    assert clock.delay(job_id) <= 0
    for _ in range(settings.max_attempts - 1):
        state = record(store, claim(store), Began("a"), Failed("a", StorageRefused()), settle=True)
        assert state is JobState.QUEUED
        clock.end_backoff(job_id)


def test_a_job_whose_dispatchers_died_under_it_gets_all_its_lives_back(store, letters, clock, settings):
    job_id = submit(store, new_job(CHAIN)).job_id

    def lose() -> None:
        record(store, claim(store), Began("t"))
        clock.end_lease(job_id)
        store.rescue()
        clock.database.execute("UPDATE job SET available_at = now()")

    for _ in range(settings.max_crashes):
        lose()
    assert store.get(ANN, job_id).job.state == JobState.FAILED

    assert redrive(letters) == [job_id]  # both of its letters at once
    for _ in range(settings.max_crashes - 1):
        lose()

    assert store.get(ANN, job_id).job.state == JobState.QUEUED


TWO_BAD = {"a": ("source",), "b": ("source",), "z": ("a", "b"), "y": ("a",)}


def test_a_reader_of_two_failed_steps_is_back_when_both_are(store, letters):
    claimed = buried(store, TWO_BAD, "a", "b")
    assert states(store, claimed.id) == {"a": FAILED, "b": FAILED, "z": SKIPPED, "y": SKIPPED}
    second, first = (view.letter.id for view in page(letters))

    redrive(letters, Selection(id=first))
    assert states(store, claimed.id) == {"a": WAITING, "b": FAILED, "z": SKIPPED, "y": WAITING}

    redrive(letters, Selection(id=second))
    assert states(store, claimed.id) == dict.fromkeys("abzy", WAITING)


def test_all_letters_of_a_job_that_are_to_be_redriven_are_redriven_with_the_first(store, letters):
    claimed = buried(store, TWO_BAD, "a", "b")
    other = buried(store)
    first, second, third = letters.ask_redrive(ANN, Selection())

    assert letters.redrive(second) == Redriven(claimed.id, 2)
    assert letters.redrive(first) is None
    assert letters.redriving() == [third]
    assert letters.redrive(third) == Redriven(other.id, 1)


@pytest.mark.parametrize("asked", [False, True], ids=["waiting", "to be redriven"])
def test_a_retry_redrives_all_open_letters_of_its_job_and_no_other(store, letters, asked):
    claimed, other = buried(store, TWO_BAD, "a", "b"), buried(store)
    if asked:
        letters.ask_redrive(ANN, Selection(op="png"))

    assert letters.retry(ANN, claimed.id) == Redriven(claimed.id, 2)

    assert states(store, claimed.id) == dict.fromkeys("abzy", WAITING)
    assert states(store, other.id) == {"a": FAILED}
    assert letters.retry(ANN, claimed.id) is None


def test_there_is_nothing_to_retry_where_nothing_was_given_up_or_nobody_may(store, letters, database):
    done, discarded, theirs, cancelled = submitted(store), buried(store), buried(store, owner=BOB), submitted(store)
    finish(store, done, "a", settle=True)
    letters.discard(ANN, Selection())
    store.cancel(ANN, cancelled.id)
    before = everything(database)

    for job_id in (done.id, discarded.id, theirs.id, cancelled.id, uuid.uuid4()):
        assert letters.retry(ANN, job_id) is None

    assert everything(database) == before


def test_a_redrive_of_one_of_two_leaves_the_other_and_its_reader_to_a_later_decision(store, letters):
    claimed = buried(store, TWO_BAD, "a", "b")
    (_, letter) = [view.letter.id for view in page(letters)]
    redrive(letters, Selection(id=letter))
    again = claim(store)
    assert finish(store, again, "a", "y", settle=True) is JobState.PARTIAL
    assert states(store, claimed.id) == {"a": SUCCEEDED, "b": FAILED, "z": SKIPPED, "y": SUCCEEDED}

    redrive(letters)

    assert states(store, claimed.id) == {"a": SUCCEEDED, "b": WAITING, "z": WAITING, "y": SUCCEEDED}
    assert finish(store, claim(store), "b", "z", settle=True) is JobState.SUCCEEDED


def test_a_step_redriven_while_its_job_runs_is_tried_in_the_next_attempt(store, letters, clock):
    claimed = submitted(store, new_job(CHAIN))
    fail(store, claimed, "t")
    version = store.version(ANN, claimed.id)

    assert redrive(letters) == [claimed.id]

    view = store.get(ANN, claimed.id)
    assert (view.job.state, view.job.attempt) == (JobState.RUNNING, claimed.attempt)
    assert view.job.version > version
    assert finish(store, claimed, "other", settle=True) is JobState.QUEUED
    clock.end_backoff(claimed.id)
    assert finish(store, claim(store), "t", "a", "b", "z", settle=True) is JobState.SUCCEEDED


def test_a_step_redriven_while_its_job_is_queued_waits_with_it(store, letters, clock):
    claimed = submitted(store, new_job(CHAIN))
    record(store, claimed, Began("other"), Failed("other", StorageRefused()))
    fail(store, claimed, "t", settle=True)
    clock.database.execute("UPDATE job SET available_at = now() + interval '1 minute'")

    assert redrive(letters) == [claimed.id]

    assert states(store, claimed.id) == dict.fromkeys(CHAIN, WAITING)
    assert clock.delay(claimed.id) > 30  # the others back off as before


def test_a_step_that_is_given_up_again_is_a_new_letter(store, letters):
    claimed = buried(store)
    redrive(letters)
    fail(store, claim(store), "a", settle=True)

    newer, older = (view.letter for view in page(letters))

    assert (older.state, older.attempt) == (LetterState.REDRIVEN, 1)
    assert (newer.state, newer.attempt) == (LetterState.WAITING, 2)
    assert redrive(letters) == [claimed.id]


def test_a_step_that_is_given_up_twice_in_one_attempt_is_a_new_letter_too(store, letters, clock):
    claimed = submitted(store)
    clock.database.execute("UPDATE job SET crashes = 2")
    fail(store, claimed, "a")
    redrive(letters)
    clock.end_lease(claimed.id)

    store.rescue()  # for the third time: what is open is given up

    assert states(store, claimed.id) == {"a": FAILED}
    assert [view.letter.state for view in page(letters)] == [LetterState.WAITING, LetterState.REDRIVEN]


@pytest.mark.parametrize("end", ["cancelled", "expired"])
def test_a_redrive_that_comes_after_its_job_is_gone_discards_the_letter(store, letters, database, end):
    claimed = buried(store)
    (letter,) = letters.ask_redrive(ANN, Selection())
    database.execute("UPDATE job SET state = %s", [end])  # by a version of the code that knows no letters

    assert letters.redrive(letter) is None

    assert letter_states(letters) == {"a": LetterState.DISCARDED}
    assert states(store, claimed.id) == {"a": FAILED}
    assert history(database)[-1] == (1, "discarded", None)


def test_what_was_redriven_is_not_redriven_again(store, letters, database):
    buried(store)
    (letter,) = letters.ask_redrive(ANN, Selection())
    letters.redrive(letter)
    before = everything(database)

    assert letters.redrive(letter) is None
    assert letters.redrive(uuid.uuid4()) is None

    assert everything(database) == before


def test_a_letter_nobody_asked_to_redrive_is_left_alone(store, letters, database):
    buried(store)
    (view,) = page(letters)
    before = everything(database)

    assert letters.redrive(view.letter.id) is None

    assert everything(database) == before


def test_a_letter_redriven_by_many_at_once_is_redriven_once(store, letters, database):
    claimed = buried(store)
    (letter,) = letters.ask_redrive(ANN, Selection())

    with ThreadPoolExecutor(5) as threads:
        answers = Counter(threads.map(letters.redrive, [letter] * 5))

    assert answers == {Redriven(claimed.id, 1): 1, None: 4}
    assert [what for _, what, _ in history(database)].count("redriven") == 1


# Discarding


def test_a_discarded_letter_leaves_its_step_failed(store, letters):
    claimed = buried(store, CHAIN, "t")

    assert letters.discard(ANN, Selection()) == 1
    assert letters.discard(ANN, Selection()) == 0

    assert letter_states(letters) == {"t": LetterState.DISCARDED}
    assert states(store, claimed.id)["t"] is FAILED
    assert store.get(ANN, claimed.id).job.state == JobState.PARTIAL


def test_letters_are_discarded_by_selection(store, letters):
    first, second = buried(store), buried(store)

    assert letters.discard(ANN, Selection(job=first.id)) == 1

    assert letter_states(letters, Selection(job=second.id)) == {"a": LetterState.WAITING}


def test_letters_can_be_redriven_retried_and_discarded_at_once(store, letters):
    for _ in range(20):
        job_id = buried(store, TWO_BAD, "a", "b").id
        asked = letters.ask_redrive(ANN, Selection(code="corrupt_image"))
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
            letters.discard(ANN, Selection())

        with ThreadPoolExecutor(3) as threads:
            for ended in [threads.submit(deed) for deed in (redrive_all, retry, discard_all)]:
                ended.result()  # neither waits for the other for ever, which would be called an outage
        assert letters.redriving() == []


# Housekeeping


def test_each_new_letter_is_noted_once_by_the_code_of_its_error(store, letters):
    buried(store)
    buried(store, TWO_BAD, "a", "b")
    record(store, submitted(store), Failed("a", StepTimedOut()), settle=True)

    assert letters.note_new() == {"corrupt_image": 3, "step_timed_out": 1}
    assert letters.note_new() == {}
    buried(store)
    assert letters.note_new() == {"corrupt_image": 1}


def test_letters_past_their_retention_are_forgotten_and_their_jobs_stay(store, letters, database):
    old, new = buried(store), buried(store)
    database.execute("UPDATE dead_letter SET created_at = now() - interval '31 days' WHERE job_id = %s", [old.id])

    assert letters.forget(timedelta(days=30)) == 1
    assert letters.forget(timedelta(days=30)) == 0

    assert [view.letter.job_id for view in page(letters)] == [new.id]
    assert states(store, old.id) == {"a": FAILED}


def test_a_letter_whose_redrive_was_acknowledged_is_not_forgotten(store, letters, database):
    buried(store)
    asked = letters.ask_redrive(ANN, Selection())
    database.execute("UPDATE dead_letter SET created_at = now() - interval '31 days'")

    assert letters.forget(timedelta(days=30)) == 0
    assert letters.redriving() == asked


def test_a_database_that_cannot_be_reached_is_down(nowhere):
    database = Database(nowhere)
    letters = DeadLetterStore(database)

    for call in (
        letters.redriving,
        letters.note_new,
        letters.counts,
        lambda: page(letters),
        lambda: letters.ask_redrive(ANN, Selection()),
        lambda: letters.discard(ANN, Selection()),
        lambda: letters.redrive(uuid.uuid4()),
        lambda: letters.retry(ANN, uuid.uuid4()),
        lambda: letters.forget(timedelta()),
    ):
        with pytest.raises(DatabaseDown):
            call()
    database.close()
