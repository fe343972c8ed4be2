"""The history of a step: what went wrong with it, in order, and what was decided about it."""

from __future__ import annotations

from jobs import ANN, CHAIN, claim, fail, finish, history, new_job, record, submit, submitted

from pixtools.database.dead_letter_store import Selection
from pixtools.errors import CorruptImage, StorageDown, StorageRefused
from pixtools.jobs.outcomes import Began, Crashed, Failed
from pixtools.states import Happening, JobState, LetterState


def test_a_step_that_went_well_has_no_history(store, database):
    finish(store, submitted(store), "a", settle=True)

    assert history(database) == []


def test_each_try_that_failed_is_told_with_its_error_outages_too(store, clock):
    job_id = submit(store).job_id
    for error in (StorageDown(), StorageRefused()):
        record(store, claim(store), Began("a"), Failed("a", error), settle=True)
        clock.end_backoff(job_id)
    finish(store, claim(store), "a", settle=True)

    assert history(clock.database) == [(1, "failed", "storage_down"), (2, "failed", "storage_refused")]


def test_a_step_that_was_given_up_is_told_to_be_buried(store, database):
    fail(store, submitted(store), "a", settle=True)

    assert history(database) == [(1, "failed", "corrupt_image"), (1, "buried", "corrupt_image")]


def test_crashes_are_told_without_an_error_until_they_are_too_many(store, clock, settings):
    job_id = submit(store).job_id
    for _ in range(settings.max_crashes):
        record(store, claim(store), Began("a"), Crashed("a"), settle=True)
        clock.end_backoff(job_id)

    crashes = [(attempt, "crashed", None) for attempt in range(1, settings.max_crashes + 1)]
    assert history(clock.database) == [*crashes, (settings.max_crashes, "buried", "converter_crashed")]


def test_a_step_at_work_when_its_dispatcher_died_is_told_to_be_lost_and_no_other(store, clock):
    claimed = submitted(store, new_job(CHAIN))
    finish(store, claimed, "t")
    record(store, claimed, Began("a"))
    clock.end_lease(claimed.id)
    store.rescue()

    assert history(clock.database, "a") == [(1, "lost", None)]
    assert [history(clock.database, step) for step in ("t", "b", "z", "other")] == [[]] * 4


def test_a_job_that_is_given_up_tells_for_each_step_that_was_open(store, clock, settings):
    job_id = submit(store, new_job({"t": ("source",), "a": ("t",), "other": ("source",)})).job_id
    for _ in range(settings.max_crashes):
        record(store, claim(store), Began("t"))
        clock.end_lease(job_id)
        store.rescue()
        clock.database.execute("UPDATE job SET available_at = now()")

    last = settings.max_crashes
    lost = [(attempt, "lost", None) for attempt in range(1, last + 1)]
    assert history(clock.database, "t") == [*lost, (last, "buried", "dispatcher_lost")]
    assert history(clock.database, "other") == [(last, "buried", "dispatcher_lost")]
    assert history(clock.database, "a") == []  # it was skipped


def test_a_job_handed_back_in_good_order_tells_nothing(store, database):
    record(store, submitted(store), Began("a"))
    store.hand_back()

    assert history(database) == []


def test_what_was_decided_is_told_after_what_happened_and_goes_on_after_it(store, letters, clock):
    claimed = submitted(store)
    fail(store, claimed, "a", settle=True)
    (letter,) = letters.ask_redrive(ANN, Selection())
    letters.redrive(letter)
    fail(store, claim(store), "a", settle=True)
    letters.discard(ANN, Selection())

    gone = [("failed", "corrupt_image"), ("buried", "corrupt_image")]
    assert history(clock.database) == [
        *((1, *event) for event in gone),
        (1, "redriven", None),
        *((2, *event) for event in gone),
        (2, "discarded", None),
    ]


def test_a_dead_letter_is_read_with_the_history_of_its_step_alone_oldest_first(store, letters):
    claimed = submitted(store, new_job(CHAIN))
    record(store, claimed, Began("other"), Failed("other", StorageRefused()), Began("t"), Failed("t", StorageRefused()))
    record(store, claimed, Failed("t", CorruptImage("It ends too soon.")), settle=True)
    fail(store, submitted(store, new_job(CHAIN)), "t")

    (_, view) = letters.page(ANN, Selection(), states=list(LetterState), before=None, limit=10)

    assert (view.letter.job_id, view.op, view.source_name) == (claimed.id, "resize", "x.jpg")
    assert [event.what for event in view.history] == [Happening.FAILED, Happening.FAILED, Happening.BURIED]
    assert [event.error["code"] for event in view.history] == ["storage_refused", "corrupt_image", "corrupt_image"]
    assert view.history[-1].error["detail"] == "It ends too soon."
    times = [event.created_at for event in view.history]
    assert times == sorted(times)


def test_a_history_goes_with_its_job(store, database):
    fail(store, submitted(store), "a", settle=True)
    database.execute("DELETE FROM job")

    assert history(database) == []


def test_a_batch_that_ends_the_job_tells_all_of_it(store, database):
    claimed = submitted(store)

    state = record(store, claimed, Began("a"), Failed("a", CorruptImage()), batch=1, settle=True)

    assert state is JobState.FAILED
    assert len(history(database)) == 2


def test_an_outage_is_told_once_however_often_it_is_met(store, clock):
    job_id = submit(store).job_id
    for error in (StorageDown(), StorageDown(), StorageDown(), StorageRefused(), StorageDown()):
        record(store, claim(store), Began("a"), Failed("a", error), settle=True)
        clock.end_backoff(job_id)

    assert history(clock.database) == [
        (1, "failed", "storage_down"),
        (4, "failed", "storage_refused"),
        (5, "failed", "storage_down"),
    ]
