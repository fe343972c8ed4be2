"""Fixtures of the store tests: the stores on real Postgres, Redis and S3. The servers start once for all tests."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable, Iterator
from typing import TypeVar

import boto3
import psycopg
import pytest
from jobs import Clock
from pydantic import SecretStr

from pixtools.database.connection import Database
from pixtools.database.dead_letter_store import DeadLetterStore
from pixtools.database.delivery_store import DeliveryStore
from pixtools.database.endpoint_store import EndpointStore
from pixtools.database.job_store import JobStore
from pixtools.database.retention_store import RetentionStore
from pixtools.local.ports import free_port
from pixtools.settings import Settings

T = TypeVar("T")


@pytest.fixture(scope="session")
def connection(settings: Settings) -> Iterator[psycopg.Connection]:
    """A direct connection to the database for the whole session, without the store classes."""
    with psycopg.connect(settings.database_url.get_secret_value(), autocommit=True) as connection:
        yield connection


@pytest.fixture
def database(connection: psycopg.Connection) -> psycopg.Connection:
    """A connection to the emptied database, for tests that read or change the tables directly."""
    connection.execute("DELETE FROM job")
    connection.execute("DELETE FROM artifact")
    connection.execute("DELETE FROM webhook_endpoint")
    connection.execute("DELETE FROM webhook_secret")
    return connection


@pytest.fixture
def pool(settings: Settings, database: psycopg.Connection) -> Iterator[Database]:  # noqa: ARG001 (empties the tables)
    pool = Database(settings)
    yield pool
    pool.close()


@pytest.fixture
def store(settings: Settings, pool: Database) -> JobStore:
    return JobStore(pool, settings)


@pytest.fixture
def letters(pool: Database) -> DeadLetterStore:
    return DeadLetterStore(pool)


@pytest.fixture
def deliveries(pool: Database) -> DeliveryStore:
    return DeliveryStore(pool)


@pytest.fixture
def endpoints(pool: Database) -> EndpointStore:
    return EndpointStore(pool)


@pytest.fixture
def retention(pool: Database) -> RetentionStore:
    return RetentionStore(pool)


@pytest.fixture
def clock(database: psycopg.Connection) -> Clock:
    return Clock(database)


@pytest.fixture
def calls_in() -> Callable[[Callable[[], T]], tuple[T, int]]:
    """Return a function that runs another function and counts the calls of Python functions.

    Unlike a run time, this count does not vary.
    """

    def count(function: Callable[[], T]) -> tuple[T, int]:
        calls = 0

        def profile(frame: object, event: str, arg: object) -> None:  # noqa: ARG001 (Python requires these parameters)
            nonlocal calls
            calls += event == "call"

        sys.setprofile(profile)
        try:
            result = function()
        finally:
            sys.setprofile(None)
        return result, calls

    return count


@pytest.fixture
def fresh_url(connection: psycopg.Connection) -> Iterator[str]:
    """The URL of a new database without tables."""
    name, info = f"fresh_{uuid.uuid4().hex}", connection.info
    connection.execute(f"CREATE DATABASE {name}")
    yield f"postgresql://{info.user}:{info.password}@{info.host}:{info.port}/{name}"
    connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def nowhere(settings: Settings) -> Settings:
    """Settings of a service that cannot reach any server."""
    port = free_port()
    return settings.model_copy(
        update={
            "database_url": SecretStr(f"postgresql://pixtools:secret@127.0.0.1:{port}/pixtools"),
            "redis_url": SecretStr(f"redis://127.0.0.1:{port}/0"),
            "s3_endpoint_url": f"http://127.0.0.1:{port}",
        },
    )


@pytest.fixture
def own_bucket(settings: Settings) -> Settings:
    """Settings of a service with a new, empty bucket."""
    there = settings.model_copy(update={"s3_bucket": uuid.uuid4().hex})
    s3 = boto3.client(
        "s3",
        endpoint_url=there.s3_endpoint_url,
        region_name=there.s3_region,
        aws_access_key_id=there.s3_access_key_id.get_secret_value(),
        aws_secret_access_key=there.s3_secret_access_key.get_secret_value(),
    )
    s3.create_bucket(Bucket=there.s3_bucket)
    s3.close()
    return there
