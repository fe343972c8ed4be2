"""What clients read of their jobs, and that nobody reads another's."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from jobs import ANN, BOB, CHAIN, asked, claim, finish, new_job, submit, submitted

from pixtools.database.connection import Database
from pixtools.database.job_store import JobStore, JobView
from pixtools.errors import DatabaseDown, NotFound
from pixtools.jobs.outcomes import Began
from pixtools.states import JobState, StepState


def test_a_submitted_job_is_read_as_it_was_accepted(store):
    new = new_job(CHAIN)

    view = store.get(ANN, submit(store, new).job_id)

    assert (view.job.owner, view.job.state, view.job.attempt, view.job.version) == (ANN, JobState.QUEUED, 0, 1)
    assert (view.job.source_key, view.job.source_name, view.job.source_width) == ("sources/x", "x.jpg", 4)
    assert [(step.name, tuple(step.inputs), step.op, step.params, step.key) for step in view.steps] == [
        (step.name, step.inputs, step.op, step.params, step.key) for step in new.steps
    ]
    assert {step.state for step in view.steps} == {StepState.WAITING}
    assert view.artifacts == {}
    assert abs(view.job.created_at - datetime.now(UTC)) < timedelta(seconds=10)


def test_the_answer_is_rendered_of_the_job_as_it_is_stored(store):
    rendered: list[JobView] = []

    def render(view: JobView) -> bytes:
        rendered.append(view)
        return b"the answer"

    accepted = store.submit(new_job(CHAIN), None, render)

    assert (accepted.body, accepted.replayed) == (b"the answer", False)
    read = store.get(ANN, accepted.job_id)
    assert rendered[0].job.model_dump() == read.job.model_dump()
    assert [step.model_dump() for step in rendered[0].steps] == [step.model_dump() for step in read.steps]


def test_a_job_whose_answer_cannot_be_rendered_is_not_stored(store, database):
    def fail(_: JobView) -> bytes:
        raise ValueError("no answer")

    with pytest.raises(ValueError, match="no answer"):
        store.submit(new_job(), asked(), fail)

    assert count(database, "job") == count(database, "step") == count(database, "idempotency") == 0


def test_artifacts_are_read_with_the_steps_that_left_them(store):
    claimed = submitted(store, new_job(CHAIN))
    finish(store, claimed, "t", "other")

    view = store.get(ANN, claimed.id)

    assert view.artifacts.keys() == {"t", "other"}
    artifact = view.artifacts["other"]
    assert (artifact.blob_key, artifact.media_type, artifact.bytes, artifact.width, artifact.height) == (
        "blob", "image/png", 9, 4, 3,
    )  # fmt: skip
    assert artifact.result == {"fact": "other"}


@pytest.mark.parametrize("read", [JobStore.get, JobStore.version])
def test_the_job_of_another_owner_is_not_there(store, read):
    job_id = submit(store).job_id

    assert read(store, ANN, job_id)
    with pytest.raises(NotFound, match=str(job_id)):
        read(store, BOB, job_id)


@pytest.mark.parametrize("read", [JobStore.get, JobStore.version])
def test_a_job_that_never_was_is_not_there(store, read):
    with pytest.raises(NotFound):
        read(store, ANN, uuid.uuid4())


def test_each_change_that_can_be_seen_raises_the_version(store):
    job_id = submit(store).job_id
    versions = [store.version(ANN, job_id)]
    claimed = claim(store)
    versions.append(store.version(ANN, job_id))
    store.record(job_id, claimed.attempt, [Began("a")])
    versions.append(store.version(ANN, job_id))
    finish(store, claimed, "a", settle=True)
    versions.append(store.version(ANN, job_id))

    assert versions == sorted(set(versions))


def test_renewing_a_lease_is_no_change_that_can_be_seen(store):
    claimed = submitted(store)
    before = store.version(ANN, claimed.id)

    store.renew([(claimed.id, claimed.attempt)])

    assert store.version(ANN, claimed.id) == before


def ids(views: list[JobView]) -> list[uuid.UUID]:
    return [view.job.id for view in views]


def test_history_is_the_owners_own_newest_first(store):
    mine = [submit(store).job_id for _ in range(3)]
    submit(store, new_job(owner=BOB))

    assert ids(store.history(ANN, state=None, before=None, limit=10)) == mine[::-1]
    assert ids(store.history("nobody", state=None, before=None, limit=10)) == []


def test_a_cursor_walks_through_history_without_gap_or_repetition(store):
    submitted_ids = [submit(store).job_id for _ in range(5)]

    seen: list[uuid.UUID] = []
    pages = []
    for _ in range(4):
        page = store.history(ANN, state=None, before=seen[-1] if seen else None, limit=2)
        pages.append(len(page))
        seen += ids(page)
        submit(store)  # what comes in meanwhile does not move the pages

    assert seen == submitted_ids[::-1]
    assert pages == [2, 2, 1, 0]


def test_history_by_state_shows_that_state_alone(store):
    running = submitted(store).id
    queued = submit(store).job_id

    assert ids(store.history(ANN, state=JobState.RUNNING, before=None, limit=10)) == [running]
    assert ids(store.history(ANN, state=JobState.QUEUED, before=None, limit=10)) == [queued]
    assert ids(store.history(ANN, state=JobState.FAILED, before=None, limit=10)) == []


def test_history_has_steps_in_running_order_and_artifacts(store):
    claimed = submitted(store, new_job(CHAIN))
    finish(store, claimed, "t")
    submit(store)

    view = store.history(ANN, state=None, before=None, limit=10)[1]

    assert [step.name for step in view.steps] == list(CHAIN)
    assert view.artifacts.keys() == {"t"}


def test_the_backlog_counts_what_is_queued_and_running_over_all_owners(store):
    assert store.backlog() == {"queued": 0, "running": 0}
    finish(store, submitted(store), "a", settle=True)
    submitted(store)
    submit(store)
    submit(store, new_job(owner=BOB))

    assert store.backlog() == {"queued": 2, "running": 1}


@pytest.mark.parametrize(("table", "states"), [("job", JobState), ("step", StepState)])
def test_every_state_can_be_stored_and_no_other(store, database, table, states):
    submit(store)

    for state in states:
        database.execute(f"UPDATE {table} SET state = %s", [state])
    with pytest.raises(psycopg.errors.CheckViolation, match="known_state"):
        database.execute(f"UPDATE {table} SET state = 'lost'")


def test_a_deleted_job_takes_its_records_with_it_and_leaves_artifacts_to_others(store, database):
    claimed = submitted(store)
    finish(store, claimed, "a", settle=True)

    database.execute("DELETE FROM job")

    assert (count(database, "step"), count(database, "artifact")) == (0, 1)


def count(database: psycopg.Connection, table: str) -> int:
    return database.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


def test_a_database_that_cannot_be_reached_is_down(nowhere):
    database = Database(nowhere)
    store = JobStore(database, nowhere)

    for call in (
        database.ping,
        store.backlog,
        store.rescue,
        store.forget_answers,
        lambda: store.claim("d0", 1),
        lambda: store.renew([(uuid.uuid4(), 1)]),
        lambda: store.get(ANN, uuid.uuid4()),
        lambda: store.replay(asked()),
        lambda: submit(store),
        lambda: store.record(uuid.uuid4(), 1, [Began("a")]),
    ):
        with pytest.raises(DatabaseDown):
            call()
    database.close()


def test_connections_that_were_cut_while_they_stood_idle_are_not_noticed(pool, database):
    pool.ping()

    cut(database)

    pool.ping()


def test_a_connection_that_is_cut_before_the_commit_stores_nothing_and_says_so(store, database):
    def render(_: JobView) -> bytes:
        cut(database)
        return b"never sent"

    with pytest.raises(DatabaseDown):
        store.submit(new_job(), asked(), render)

    assert count(database, "job") == count(database, "idempotency") == 0
    assert submit(store, request=asked()).replayed is False


def cut(database: psycopg.Connection) -> None:
    """End every connection to the database but our own."""
    database.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
        "WHERE pid <> pg_backend_pid() AND datname = current_database()"
    )
