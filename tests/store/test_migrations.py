"""Migrations: they make the tables that the records describe, whoever runs them and however often."""

from __future__ import annotations

import subprocess
import sys

import psycopg
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from pixtools import migrate
from pixtools.job_store import engine
from pixtools.records import Job


def tables(url: str) -> set[str]:
    with psycopg.connect(url) as connection:
        return {name for (name,) in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")}


def test_the_tables_are_those_of_the_records(fresh_url):
    migrate.upgrade(fresh_url)

    assert tables(fresh_url) == {"alembic_version", *Job.metadata.tables}


def test_models_and_migrations_agree(settings):
    database = engine(settings.database_url.get_secret_value(), pool_size=1)
    with database.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        differences = compare_metadata(context, Job.metadata)
    database.dispose()

    assert differences == []


def test_upgrading_twice_is_harmless(fresh_url):
    migrate.upgrade(fresh_url)
    with psycopg.connect(fresh_url) as connection:
        connection.execute("CREATE TABLE witness ()")

    migrate.upgrade(fresh_url)

    assert "witness" in tables(fresh_url)


UPGRADE = """
import sys
from pixtools.migrate import upgrade
print("ready", flush=True)
upgrade(sys.stdin.readline().strip())
"""


def test_upgrades_at_once_end_well(fresh_url):
    command = [sys.executable, "-c", UPGRADE]
    pipe = subprocess.PIPE
    upgrades = [subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for _ in range(4)]
    for upgrade in upgrades:
        upgrade.stdout.readline()  # it waits for the word

    for upgrade in upgrades:
        upgrade.stdin.write(f"{fresh_url}\n")
        upgrade.stdin.flush()
    errors = [upgrade.communicate(timeout=60)[1] for upgrade in upgrades]

    assert [upgrade.returncode for upgrade in upgrades] == [0] * 4, errors
    assert "job" in tables(fresh_url)
