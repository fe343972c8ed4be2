"""Migrations: they create the tables that tables.py describes, and keep the records of earlier versions."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
import uuid6
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from jobs import claim, fail, finish, job_row, new_job, record_batch, submit, submitted
from pydantic import SecretStr

from pixtools.database import migrate
from pixtools.database.connection import Database, engine
from pixtools.database.dead_letter_store import DeadLetterStore
from pixtools.database.job_store import JobStore
from pixtools.database.tables import Job
from pixtools.errors import CorruptImage
from pixtools.jobs.dead_letters import DeadLetterSelection
from pixtools.jobs.outcomes import Batch, Failed, Started
from pixtools.jobs.views import QueueLoad
from pixtools.operations import OPERATIONS
from pixtools.settings import Settings
from pixtools.states import DeadLetterState, JobState


def tables(url: str) -> set[str]:
    with psycopg.connect(url) as connection:
        return {name for (name,) in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")}


def test_an_upgrade_makes_all_tables(fresh_url):
    migrate.upgrade(fresh_url)

    assert tables(fresh_url) == {"alembic_version", *Job.metadata.tables}


def differences(url: str) -> list[Any]:
    database = engine(url, pool_size=1)
    with database.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        found = compare_metadata(context, Job.metadata)
    database.dispose()
    return found


def test_tables_and_migrations_agree(settings):
    assert differences(settings.database_url.get_secret_value()) == []


def test_a_second_upgrade_changes_nothing(fresh_url):
    migrate.upgrade(fresh_url)
    with psycopg.connect(fresh_url) as connection:
        connection.execute("CREATE TABLE witness ()")

    migrate.upgrade(fresh_url)

    assert "witness" in tables(fresh_url)


UPGRADE = """
import sys
from pixtools.database.migrate import upgrade
print("ready", flush=True)
upgrade(sys.stdin.readline().strip())
"""


def test_several_processes_can_upgrade_at_the_same_time(fresh_url):
    pipe = subprocess.PIPE
    program = [sys.executable, "-c", UPGRADE]
    upgrades = [subprocess.Popen(program, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for _ in range(4)]
    for upgrade in upgrades:
        upgrade.stdout.readline()  # the program has started and waits for its input

    for upgrade in upgrades:
        upgrade.stdin.write(f"{fresh_url}\n")
        upgrade.stdin.flush()
    errors = [upgrade.communicate(timeout=60)[1] for upgrade in upgrades]

    assert [upgrade.returncode for upgrade in upgrades] == [0] * 4, errors
    assert "job" in tables(fresh_url)


def move(url: str, revision: str) -> None:
    """Upgrade or downgrade a database to a revision."""
    config = Config()
    config.set_main_option("script_location", str(migrate.MIGRATIONS))
    config.attributes["database_url"] = url
    with psycopg.connect(url) as connection:
        there = connection.execute("SELECT to_regclass('alembic_version')").fetchone()[0]
        now = connection.execute("SELECT version_num FROM alembic_version").fetchone()[0] if there else ""
    (command.downgrade if revision == "base" or revision < now else command.upgrade)(config, revision)


def insert_as_0001_did(url: str, *names: str) -> uuid.UUID:
    """Insert a job with these steps as the code of version 0001 did, with the columns of that revision."""
    job_id = uuid6.uuid7()
    with psycopg.connect(url) as connection:
        connection.execute(
            "INSERT INTO job (id, owner, state, version, attempt, crashes, source_key, source_name, source_media_type,"
            " source_width, source_height, source_bytes, source_sha256)"
            " VALUES (%s, 'ann', 'queued', 1, 0, 0, 'sources/ann/x', 'x.jpg', 'image/jpeg', 4, 3, 5, 'ab')",
            [job_id],
        )
        for position, name in enumerate(names):
            connection.execute(
                "INSERT INTO step (job_id, name, position, op, inputs, params, key, state, attempt, failures, crashes)"
                " VALUES (%s, %s, %s, 'png', '{source}', '{}', %s, 'waiting', 0, 0, 0)",
                [job_id, name, position, f"{name}-{job_id}"],
            )
    return job_id


def insert_as_0002_did(url: str) -> uuid.UUID:
    """Insert a job of one step as the code of version 0002 did, with the columns of that revision."""
    job_id = insert_as_0001_did(url, "a")
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE job SET written = 0, expires_at = now() + interval '7 days'")
    return job_id


@contextmanager
def stores(settings: Settings, url: str) -> Iterator[tuple[JobStore, DeadLetterStore]]:
    database = Database(settings.model_copy(update={"database_url": SecretStr(url)}))
    yield JobStore(database, settings), DeadLetterStore(database)
    database.close()


@pytest.mark.parametrize("first", ["0001", "0002"], ids=["before the upgrade", "after it, by old code"])
def test_a_job_that_version_0001_wrote_can_be_run(settings, fresh_url, first):
    move(fresh_url, first)
    job_id = insert_as_0001_did(fresh_url, "a", "b")
    migrate.upgrade(fresh_url)

    with stores(settings, fresh_url) as (store, letters):
        claimed = claim(store)
        assert (claimed.id, claimed.attempt) == (job_id, 1)
        with psycopg.connect(fresh_url) as connection:
            assert job_row(connection, job_id).written == 0
        outcomes = Started("b"), Failed("b", CorruptImage())
        record_batch(store, Batch(job_id, 1, outcomes, 1))
        assert finish(store, claimed, "a", settle=True) is JobState.PARTIAL
        (view,) = letters.page(
            "ann", DeadLetterSelection(job=job_id), states=list(DeadLetterState), before=None, limit=10
        )
        assert (view.letter.step, view.letter.state, len(view.history)) == ("b", DeadLetterState.WAITING, 2)
        (letter,) = letters.request_redrive("ann", DeadLetterSelection(op="png"))
        assert letters.redrive(letter).job_id == job_id
        assert finish(store, claim(store), "b", settle=True) is JobState.SUCCEEDED
        assert store.get("ann", job_id).job.expires_at is not None


@pytest.mark.parametrize("first", ["0002", "0003"], ids=["before the upgrade", "after it, by old code"])
def test_a_job_that_version_0002_wrote_has_one_frame_and_no_parts(settings, fresh_url, first):
    move(fresh_url, first)
    job_id = insert_as_0002_did(fresh_url)
    migrate.upgrade(fresh_url)

    with stores(settings, fresh_url) as (store, _):
        claimed = claim(store)
        assert (claimed.id, claimed.view.job.source_frames, claimed.view.parts) == (job_id, 1, ())
        assert finish(store, claimed, "a", settle=True) is JobState.SUCCEEDED


@pytest.mark.parametrize(
    ("op", "params", "after"),
    [
        ("webp", {"lossless": True, "quality": 50}, {"lossless": True}),
        ("webp", {"lossless": True}, {"lossless": True}),
        ("webp", {"quality": 50}, {"quality": 50}),
        ("avif", {"quality": 50}, {"quality": 50}),
        ("avif", {"quality": 50, "encoder": "svt"}, {"quality": 50}),
        ("avif", {"encoder": "rav1e"}, {}),
    ],
)
def test_the_parameters_that_version_0002_wrote_are_valid(fresh_url, op, params, after):
    move(fresh_url, "0002")
    insert_as_0002_did(fresh_url)
    with psycopg.connect(fresh_url) as connection:
        connection.execute("UPDATE step SET op = %s, params = %s", [op, json.dumps(params)])
    migrate.upgrade(fresh_url)

    with psycopg.connect(fresh_url) as connection:
        (stored,) = connection.execute("SELECT params FROM step").fetchone()
    assert stored == after
    assert OPERATIONS[op].params.model_validate(stored).given() == after


def test_a_downgrade_to_0002_and_an_upgrade_keep_everything_except_parts(settings, fresh_url):
    migrate.upgrade(fresh_url)
    with stores(settings, fresh_url) as (store, _):
        with_part = submit(store, new_job(parts=("logo",))).job_id
        before = store.get("ann", with_part)

    move(fresh_url, "0002")
    assert "part" not in tables(fresh_url)
    old = insert_as_0002_did(fresh_url)
    migrate.upgrade(fresh_url)

    with stores(settings, fresh_url) as (store, _):
        after = store.get("ann", with_part)
        assert after.job.source_key == before.job.source_key
        assert after.steps == before.steps
        assert after.parts == ()
        assert {claimed.id for claimed in store.claim("d0", 10)} == {with_part, old}


def test_a_job_that_version_0004_wrote_has_no_pixels_and_can_be_claimed(settings, fresh_url):
    move(fresh_url, "0004")
    before = insert_as_0002_did(fresh_url)
    migrate.upgrade(fresh_url)
    after = insert_as_0002_did(fresh_url)  # old code may store jobs after the upgrade too

    with stores(settings, fresh_url) as (store, _):
        assert store.queue_load(10) == QueueLoad(2, 0)
        assert {claimed.id for claimed in store.claim("d0", 10)} == {before, after}


def test_a_downgrade_to_0004_and_an_upgrade_keep_the_queue(settings, fresh_url):
    migrate.upgrade(fresh_url)
    with stores(settings, fresh_url) as (store, _):
        job_id = submit(store, new_job()).job_id

    move(fresh_url, "0004")
    migrate.upgrade(fresh_url)

    with stores(settings, fresh_url) as (store, _):
        assert [claimed.id for claimed in store.claim("d0", 10)] == [job_id]


def test_a_downgrade_to_0005_drops_webhooks_and_keeps_jobs_and_the_dead_letters_of_steps(settings, fresh_url):
    migrate.upgrade(fresh_url)
    with stores(settings, fresh_url) as (store, letters):
        submit(store, new_job(webhook_url="https://receiver.example/"))
        fail(store, claimed := claim(store), "a", settle=True)
    with psycopg.connect(fresh_url) as connection:  # the webhook of the job fails too
        connection.execute(
            "INSERT INTO dead_letter (id, owner, job_id, delivery_id, attempt, error)"
            ' SELECT gen_random_uuid(), owner, job_id, id, 1, \'{"code": "delivery_failed"}\' FROM delivery'
        )

    move(fresh_url, "0005")
    assert not {"delivery", "delivery_attempt", "webhook_endpoint", "webhook_secret"} & tables(fresh_url)
    migrate.upgrade(fresh_url)

    with stores(settings, fresh_url) as (store, letters):
        (view,) = letters.page("ann", DeadLetterSelection(), states=[DeadLetterState.WAITING], before=None, limit=10)
        assert (view.letter.job_id, view.letter.step) == (claimed.id, "a")
        assert store.get("ann", claimed.id).job.webhook_url is None


def fail_as_0001_did(url: str, job_id: uuid.UUID) -> None:
    """Let the step of a job fail permanently, and end the job, as the code of version 0001 did."""
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE step SET state = 'failed', error = '{\"code\": \"corrupt_image\"}'")
        connection.execute("UPDATE job SET state = 'failed', attempt = 1, finished_at = now()")
        connection.execute(
            "INSERT INTO dead_letter (id, owner, job_id, step, attempt, error)"
            " VALUES (%s, 'ann', %s, 'a', 1, '{\"code\": \"corrupt_image\"}') ON CONFLICT DO NOTHING",
            [uuid6.uuid7(), job_id],
        )


@pytest.mark.parametrize("first", ["0001", "0002"], ids=["before the upgrade", "after it, by old code"])
def test_a_letter_that_version_0001_wrote_can_be_redriven(settings, fresh_url, first):
    move(fresh_url, first)
    job_id = insert_as_0001_did(fresh_url, "a")
    fail_as_0001_did(fresh_url, job_id)
    migrate.upgrade(fresh_url)

    with stores(settings, fresh_url) as (store, letters):
        (view,) = letters.page("ann", DeadLetterSelection(), states=[DeadLetterState.WAITING], before=None, limit=10)
        assert (view.letter.job_id, view.history) == (job_id, ())
        assert letters.count_new() == {"corrupt_image": 1}
        (letter,) = letters.request_redrive("ann", DeadLetterSelection(code="corrupt_image"))
        assert letters.redrive(letter).job_id == job_id
        assert finish(store, claim(store), "a", settle=True) is JobState.SUCCEEDED


def test_a_downgrade_to_0001_and_an_upgrade_keep_the_jobs(settings, fresh_url):
    migrate.upgrade(fresh_url)
    with stores(settings, fresh_url) as (store, letters):
        ended, waiting = submit(store, new_job()).job_id, submit(store, new_job()).job_id
        claimed = claim(store)
        fail(store, claimed, "a", settle=True)
        before = store.get("ann", ended)

    move(fresh_url, "0001")
    assert "step_event" not in tables(fresh_url)
    old = insert_as_0001_did(fresh_url, "a")
    migrate.upgrade(fresh_url)

    with stores(settings, fresh_url) as (store, letters):
        after = store.get("ann", ended)
        assert after.job == before.job
        assert after.steps == before.steps
        assert len(letters.request_redrive("ann", DeadLetterSelection(job=ended))) == 1
        assert {claimed.id for claimed in store.claim("d0", 10)} == {waiting, old}


def test_a_downgrade_keeps_the_last_letter_of_a_step_in_an_attempt(settings, fresh_url):
    migrate.upgrade(fresh_url)
    with stores(settings, fresh_url) as (store, letters):
        claimed = submitted(store)
        fail(store, claimed, "a")
        letters.retry("ann", claimed.id)
        fail(store, claimed, "a", settle=True)
        last, _ = letters.page("ann", DeadLetterSelection(), states=list(DeadLetterState), before=None, limit=10)

    move(fresh_url, "0001")

    with psycopg.connect(fresh_url) as connection:
        assert connection.execute("SELECT id FROM dead_letter").fetchall() == [(last.letter.id,)]


def test_tables_and_migrations_agree_after_a_downgrade_and_an_upgrade(fresh_url):
    migrate.upgrade(fresh_url)
    move(fresh_url, "base")
    assert tables(fresh_url) == {"alembic_version"}
    migrate.upgrade(fresh_url)

    assert differences(fresh_url) == []
