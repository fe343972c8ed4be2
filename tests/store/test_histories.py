"""The history of a step: its failed tries and the decisions about its dead letters, in order."""

from __future__ import annotations

from jobs import ANN, CHAIN, claim, fail, finish, history, new_job, record, submit, submitted

from pixtools.errors import CorruptImage, StorageDown, StorageRefused
from pixtools.jobs.dead_letters import DeadLetterSelection
from pixtools.jobs.outcomes import Crashed, Failed, Started
from pixtools.states import DeadLetterState, JobState, StepEventKind


def test_a_step_that_succeeded_has_no_history(store, database):
    finish(store, submitted(store), "a", settle=True)

    assert history(database) == []


def test_each_failed_try_is_an_event_with_its_error(store, clock):
    job_id = submit(store).job_id
    for error in (StorageDown(), StorageRefused()):
        record(store, claim(store), Started("a"), Failed("a", error), settle=True)
        clock.end_backoff(job_id)
    finish(store, claim(store), "a", settle=True)

    assert history(clock.database) == [(1, "failed", "storage_down"), (2, "failed", "storage_refused")]


def test_a_permanent_failure_is_an_event_of_its_own(store, database):
    fail(store, submitted(store), "a", settle=True)

    assert history(database) == [(1, "failed", "corrupt_image"), (1, "buried", "corrupt_image")]


def test_a_crash_is_an_event_without_an_error(store, clock, settings):
    job_id = submit(store).job_id
    for _ in range(settings.max_crashes):
        record(store, claim(store), Started("a"), Crashed("a"), settle=True)
        clock.end_backoff(job_id)

    crashes = [(attempt, "crashed", None) for attempt in range(1, settings.max_crashes + 1)]
    assert history(clock.database) == [*crashes, (settings.max_crashes, "buried", "converter_crashed")]


def test_only_steps_that_ran_when_their_dispatcher_died_have_a_lost_event(store, clock):
    claimed = submitted(store, new_job(CHAIN))
    finish(store, claimed, "t")
    record(store, claimed, Started("a"))
    clock.end_lease(claimed.id)
    store.rescue()

    assert history(clock.database, "a") == [(1, "lost", None)]
    assert [history(clock.database, step) for step in ("t", "b", "z", "other")] == [[]] * 4


def test_each_open_step_of_a_job_that_fails_permanently_has_an_event(store, clock, settings):
    job_id = submit(store, new_job({"t": ("source",), "a": ("t",), "other": ("source",)})).job_id
    for _ in range(settings.max_crashes):
        record(store, claim(store), Started("t"))
        clock.end_lease(job_id)
        store.rescue()
        clock.database.execute("UPDATE job SET available_at = now()")

    last = settings.max_crashes
    lost = [(attempt, "lost", None) for attempt in range(1, last + 1)]
    assert history(clock.database, "t") == [*lost, (last, "buried", "dispatcher_lost")]
    assert history(clock.database, "other") == [(last, "buried", "dispatcher_lost")]
    assert history(clock.database, "a") == []  # because the step was skipped


def test_returning_a_job_to_the_queue_is_no_event(store, database):
    record(store, submitted(store), Started("a"))
    store.return_to_queue()

    assert history(database) == []


def test_decisions_are_events_between_the_failures(store, letters, clock):
    claimed = submitted(store)
    fail(store, claimed, "a", settle=True)
    (letter,) = letters.request_redrive(ANN, DeadLetterSelection())
    letters.redrive(letter)
    fail(store, claim(store), "a", settle=True)
    letters.discard(ANN, DeadLetterSelection())

    failure = [("failed", "corrupt_image"), ("buried", "corrupt_image")]
    assert history(clock.database) == [
        *((1, *event) for event in failure),
        (1, "redriven", None),
        *((2, *event) for event in failure),
        (2, "discarded", None),
    ]


def test_a_dead_letter_is_read_with_the_history_of_only_its_step_oldest_event_first(store, letters):
    claimed = submitted(store, new_job(CHAIN))
    record(
        store, claimed, Started("other"), Failed("other", StorageRefused()), Started("t"), Failed("t", StorageRefused())
    )
    record(store, claimed, Failed("t", CorruptImage("It ends too soon.")))
    fail(store, submitted(store, new_job(CHAIN)), "t")

    (_, view) = letters.page(ANN, DeadLetterSelection(), states=list(DeadLetterState), before=None, limit=10)

    assert (view.letter.job_id, view.op, view.source_name) == (claimed.id, "resize", "x.jpg")
    assert [event.what for event in view.history] == [
        StepEventKind.FAILED,
        StepEventKind.FAILED,
        StepEventKind.FAILED_PERMANENTLY,
    ]
    assert [event.error["code"] for event in view.history] == ["storage_refused", "corrupt_image", "corrupt_image"]
    assert view.history[-1].error["detail"] == "It ends too soon."
    times = [event.created_at for event in view.history]
    assert times == sorted(times)


def test_a_history_is_deleted_with_its_job(store, database):
    fail(store, submitted(store), "a", settle=True)
    database.execute("DELETE FROM job")

    assert history(database) == []


def test_a_batch_that_ends_the_job_adds_its_events(store, database):
    claimed = submitted(store)

    state = record(store, claimed, Started("a"), Failed("a", CorruptImage()), batch=1, settle=True)

    assert state is JobState.FAILED
    assert len(history(database)) == 2


def test_an_outage_that_lasts_several_tries_is_one_event(store, clock):
    job_id = submit(store).job_id
    for error in (StorageDown(), StorageDown(), StorageDown(), StorageRefused(), StorageDown()):
        record(store, claim(store), Started("a"), Failed("a", error), settle=True)
        clock.end_backoff(job_id)

    assert history(clock.database) == [
        (1, "failed", "storage_down"),
        (4, "failed", "storage_refused"),
        (5, "failed", "storage_down"),
    ]
