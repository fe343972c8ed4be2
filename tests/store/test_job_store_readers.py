"""Reading jobs: views, versions and pages of summaries. Only the owner of a job can read the job."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import psycopg
import pytest
from databases import HookedDatabase
from jobs import ANN, BOB, CHAIN, asked, claim, finish, new_job, record, submit, submitted
from pydantic import SecretStr

from pixtools.database.connection import Database
from pixtools.database.job_store import JobStore
from pixtools.errors import DatabaseDown, NotFound
from pixtools.jobs.outcomes import Batch, Started
from pixtools.jobs.views import JobSummary, QueueLoad, StepSummary, view_of
from pixtools.logs import reason
from pixtools.states import JobState, StepState


def test_a_submitted_job_is_read_as_it_was_submitted(store):
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


def test_submitting_returns_the_job_as_it_is_stored(store):
    view = store.submit(new_job(CHAIN, parts=("logo", "Badge")))

    assert view == store.get(ANN, view.job.id)


def test_the_view_of_a_new_job_is_the_job_as_it_will_be_stored(store, settings):
    new = replace(new_job(CHAIN, parts=("logo", "Badge")), created_at=store.now())
    view = view_of(new, settings.job_retention)

    store.submit_once(new, asked(), b"the response")

    assert view == store.get(ANN, new.id)


def test_a_job_without_a_time_of_creation_has_no_view_and_no_response(store, database, settings):
    with pytest.raises(ValueError, match="time of creation"):
        view_of(new_job(), settings.job_retention)
    with pytest.raises(ValueError, match="time of creation"):
        store.submit_once(new_job(), asked(), b"the response")

    assert count(database, "job") == count(database, "step") == count(database, "idempotency") == 0


def test_the_time_comes_from_the_databases_clock(store, database):
    before = database.execute("SELECT clock_timestamp()").fetchone()[0]
    now = store.now()

    assert before <= now <= database.execute("SELECT clock_timestamp()").fetchone()[0]


def test_artifacts_are_read_with_their_steps(store):
    claimed = submitted(store, new_job(CHAIN))
    finish(store, claimed, "t", "other")

    view = store.get(ANN, claimed.id)

    assert view.artifacts.keys() == {"t", "other"}
    artifact = view.artifacts["other"]
    assert (artifact.blob_key, artifact.media_type, artifact.bytes, artifact.width, artifact.height) == (
        "blob", "image/png", 9, 4, 3,
    )  # fmt: skip
    assert artifact.result == {"fact": "other"}


@pytest.mark.parametrize("read", [JobStore.get, JobStore.status])
def test_the_job_of_another_owner_is_not_found(store, read):
    job_id = submit(store).job_id

    assert read(store, ANN, job_id)
    with pytest.raises(NotFound, match=str(job_id)):
        read(store, BOB, job_id)


@pytest.mark.parametrize("read", [JobStore.get, JobStore.status])
def test_an_unknown_job_is_not_found(store, read):
    with pytest.raises(NotFound):
        read(store, ANN, uuid.uuid4())


def test_each_visible_change_raises_the_version(store):
    job_id = submit(store).job_id
    versions = [store.status(ANN, job_id).version]
    claimed = claim(store)
    versions.append(store.status(ANN, job_id).version)
    record(store, claimed, Started("a"))
    versions.append(store.status(ANN, job_id).version)
    finish(store, claimed, "a", settle=True)
    versions.append(store.status(ANN, job_id).version)

    assert versions == sorted(set(versions))


def test_renewing_a_lease_is_not_a_visible_change(store):
    claimed = submitted(store)
    before = store.status(ANN, claimed.id).version

    store.renew([(claimed.id, claimed.attempt)])

    assert store.status(ANN, claimed.id).version == before


def ids(summaries: list[JobSummary]) -> list[uuid.UUID]:
    return [summary.job.id for summary in summaries]


def test_a_list_has_the_jobs_of_the_owner_newest_first(store):
    mine = [submit(store).job_id for _ in range(3)]
    submit(store, new_job(owner=BOB))

    assert ids(store.list_jobs(ANN, state=None, before=None, limit=10)) == mine[::-1]
    assert ids(store.list_jobs("nobody", state=None, before=None, limit=10)) == []


def test_pages_of_jobs_have_no_gap_and_no_repetition(store):
    submitted_ids = [submit(store).job_id for _ in range(5)]

    seen: list[uuid.UUID] = []
    pages = []
    for _ in range(4):
        page = store.list_jobs(ANN, state=None, before=seen[-1] if seen else None, limit=2)
        pages.append(len(page))
        seen += ids(page)
        submit(store)  # a new job must not shift the next page

    assert seen == submitted_ids[::-1]
    assert pages == [2, 2, 1, 0]


def test_a_list_by_state_has_only_jobs_in_that_state(store):
    running = submitted(store).id
    queued = submit(store).job_id

    assert ids(store.list_jobs(ANN, state=JobState.RUNNING, before=None, limit=10)) == [running]
    assert ids(store.list_jobs(ANN, state=JobState.QUEUED, before=None, limit=10)) == [queued]
    assert ids(store.list_jobs(ANN, state=JobState.FAILED, before=None, limit=10)) == []


def test_a_summary_has_the_steps_in_running_order(store):
    claimed = submitted(store, new_job(CHAIN))
    finish(store, claimed, "t")
    submit(store)

    summary = store.list_jobs(ANN, state=None, before=None, limit=10)[1]

    waiting = StepState.WAITING
    assert summary.job == store.get(ANN, claimed.id).job
    assert summary.steps == (
        StepSummary("t", "resize", StepState.SUCCEEDED),
        StepSummary("a", "png", waiting),
        StepSummary("b", "png", waiting),
        StepSummary("z", "zip", waiting),
        StepSummary("other", "png", waiting),
    )


def test_a_page_of_jobs_is_grouped_in_one_pass(store, calls_in):
    """The limit is 20 calls for each step. Code that compares a step with all 100 jobs would make 100 calls."""
    steps = {f"s{number:02}": ("source",) for number in range(50)}
    submitted_ids = [submit(store, new_job(steps)).job_id for _ in range(100)]

    page, calls = calls_in(lambda: store.list_jobs(ANN, state=None, before=None, limit=100))

    assert ids(page) == submitted_ids[::-1]
    assert {tuple(step.name for step in summary.steps) for summary in page} == {tuple(steps)}
    assert calls < 20 * 100 * 50


def test_the_backlog_counts_queued_and_running_jobs_of_all_owners(store):
    assert store.backlog() == {"queued": 0, "running": 0}
    finish(store, submitted(store), "a", settle=True)
    submitted(store)
    submit(store)
    submit(store, new_job(owner=BOB))

    assert store.backlog() == {"queued": 2, "running": 1}


def test_the_wait_of_the_queue_is_that_of_its_oldest_job(store, clock):
    assert store.oldest_queued_s() == 0
    submit(store)
    clock.database.execute("UPDATE job SET available_at = now() - interval '1 hour'")
    submit(store, new_job(owner=BOB))
    assert 3600 <= store.oldest_queued_s() < 3660

    claim(store)
    claim(store)
    assert store.oldest_queued_s() == 0


def test_the_load_of_the_queue_counts_jobs_and_pixels_of_all_owners_up_to_a_number_of_jobs(store):
    assert store.queue_load(10) == QueueLoad(0, 0)
    submitted(store, new_job(pixels=1))
    submit(store, new_job(pixels=20))
    submit(store, new_job(owner=BOB, pixels=3 * 10**12))

    assert store.queue_load(10) == QueueLoad(2, 3 * 10**12 + 20)
    assert store.queue_load(1).jobs == 1


@pytest.mark.parametrize(("table", "states"), [("job", JobState), ("step", StepState)])
def test_the_database_stores_every_state_and_refuses_others(store, database, table, states):
    submit(store)

    for state in states:
        database.execute(f"UPDATE {table} SET state = %s", [state])
    with pytest.raises(psycopg.errors.CheckViolation, match="known_state"):
        database.execute(f"UPDATE {table} SET state = 'lost'")


def test_deleting_a_job_deletes_its_steps_and_keeps_its_artifacts(store, database):
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
        lambda: store.queue_load(1),
        store.rescue,
        store.delete_expired_responses,
        lambda: store.claim("d0", 1),
        lambda: store.renew([(uuid.uuid4(), 1)]),
        lambda: store.get(ANN, uuid.uuid4()),
        lambda: store.replay(asked()),
        lambda: submit(store),
        lambda: store.record([Batch(uuid.uuid4(), 1, (Started("a"),))]),
    ):
        with pytest.raises(DatabaseDown):
            call()
    database.close()


def test_the_cause_of_an_outage_can_be_logged(nowhere, settings):
    """The reason distinguishes a wrong password from a server that is down."""
    url = settings.database_url.get_secret_value()
    password = urlsplit(url).password
    refused = settings.model_copy(update={"database_url": SecretStr(url.replace(password, "wrong"))})

    for unusable, expected in ((nowhere, "refused"), (refused, "password authentication failed")):
        database = Database(unusable)
        with pytest.raises(DatabaseDown) as down:
            database.ping()
        database.close()
        assert expected in reason(down.value)


def test_idle_connections_that_were_cut_are_replaced(pool, database):
    pool.ping()

    cut(database)

    pool.ping()


def test_a_connection_that_is_cut_before_the_commit_stores_nothing_and_raises(store, settings, database):
    hooked = HookedDatabase(settings, lambda: cut(database))
    new = replace(new_job(), created_at=store.now())

    with pytest.raises(DatabaseDown):
        JobStore(hooked, settings).submit_once(new, asked(), b"never sent")
    hooked.close()

    assert count(database, "job") == count(database, "idempotency") == 0
    assert submit(store, request=asked()).replayed is False


def cut(database: psycopg.Connection) -> None:
    """End every connection to the database except `database`."""
    database.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
        "WHERE pid <> pg_backend_pid() AND datname = current_database()"
    )
