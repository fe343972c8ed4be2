"""Postgres keeps a connection, but does not answer. The call still ends. The tests freeze real server processes."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import psutil
import pytest
from jobs import ANN, submit
from psycopg.pq import TransactionStatus
from sqlalchemy import Connection, Engine, event, text

from pixtools.database import connection as database_connection
from pixtools.database.connection import BoundedConnection, Database, engine
from pixtools.errors import DatabaseDown
from pixtools.logs import reason
from pixtools.states import JobState

LIMITS = ("statement_timeout", "lock_timeout")


@pytest.fixture(autouse=True)
def _short_timeout(monkeypatch):
    monkeypatch.setattr(database_connection, "ANSWER_TIMEOUT_S", 3.0)


@pytest.fixture
def one_connection(settings) -> Iterator[Database]:
    database = Database(settings, pool_size=1)
    yield database
    database.close()


def server_process(connection: Connection) -> int:
    return connection.execute(text("SELECT pg_backend_pid()")).scalar_one()


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def pid_of(database: Database) -> int:
    """Return the pid of the server process of the next connection from the pool."""
    with database.transaction() as connection:
        return server_process(connection)


def run(database: Database, *statements: str) -> None:
    with database.transaction() as connection:
        for statement in statements:
            connection.execute(text(statement))


def freeze_and_run(database: Database, statement: str) -> None:
    """Freeze the server process during a transaction, and then run a statement in the transaction."""
    with database.transaction() as connection, frozen(server_process(connection)):
        connection.execute(text(statement))


@contextmanager
def server_frozen_at_the_next_commit(stack: ExitStack) -> Iterator[None]:
    """Freeze the server process of the next transaction just before its commit, until `stack` is closed."""

    def freeze(connection: Connection) -> None:
        stack.enter_context(frozen(connection.connection.dbapi_connection.info.backend_pid))

    event.listen(Engine, "commit", freeze, once=True)
    try:
        yield
    finally:
        event.remove(Engine, "commit", freeze)


def test_a_statement_that_gets_no_answer_ends_with_database_down(one_connection):
    with pytest.raises(DatabaseDown) as raised:
        freeze_and_run(one_connection, "SELECT 1")

    assert "did not answer within 3 s" in reason(raised.value)


def test_a_commit_that_gets_no_answer_ends_with_database_down(one_connection):
    with ExitStack() as stack, server_frozen_at_the_next_commit(stack), pytest.raises(DatabaseDown):
        run(one_connection, "SELECT 1")


@pytest.mark.parametrize("recover", ["return_to_queue", "rescue"])
def test_a_claim_that_commits_after_its_answer_was_lost_returns_to_the_queue(store, recover):
    job_id = submit(store).job_id
    with ExitStack() as stack:
        with server_frozen_at_the_next_commit(stack), pytest.raises(DatabaseDown):
            store.claim("d0", 1)
        thaw = threading.Timer(1.0, stack.close)
        thaw.start()
        returned = getattr(store, recover)("d0")
        thaw.join()

    assert returned == [job_id]
    assert store.get(ANN, job_id).job.state == JobState.QUEUED


def test_a_pooled_connection_that_is_frozen_is_replaced_after_one_error(one_connection):
    pid = pid_of(one_connection)

    with frozen(pid):
        with pytest.raises(DatabaseDown):
            one_connection.ping()
        assert pid_of(one_connection) != pid


@pytest.mark.parametrize("use", [Database.ping, pid_of])
def test_a_pooled_connection_that_the_server_has_closed_is_replaced_without_an_error(one_connection, use):
    pid = pid_of(one_connection)
    os.kill(pid, signal.SIGTERM)
    while psutil.pid_exists(pid):
        time.sleep(0.05)

    use(one_connection)
    assert pid_of(one_connection) != pid


def test_reading_begins_no_transaction(one_connection):
    with one_connection.reading() as connection:
        status = connection.connection.driver_connection.info.transaction_status
        connection.execute(text("SELECT 1"))
        assert connection.connection.driver_connection.info.transaction_status == status == TransactionStatus.IDLE
    with one_connection.transaction() as connection:  # the same connection
        connection.execute(text("SELECT 1"))
        assert connection.connection.driver_connection.info.transaction_status == TransactionStatus.INTRANS


def test_a_statement_that_the_server_ends_keeps_its_connection(one_connection):
    pid = pid_of(one_connection)

    with pytest.raises(DatabaseDown) as raised:
        run(one_connection, "SET LOCAL statement_timeout = '200ms'", "SELECT pg_sleep(60)")

    assert "statement timeout" in reason(raised.value)
    assert pid_of(one_connection) == pid


def test_a_migration_has_no_time_limit(settings):
    unbounded = engine(settings.database_url.get_secret_value(), pool_size=1, bounded=False)
    try:
        with unbounded.connect() as connection:
            limits = [connection.execute(text(f"SHOW {name}")).scalar_one() for name in LIMITS]
            assert limits == ["0", "0"]
            assert not isinstance(connection.connection.dbapi_connection, BoundedConnection)
    finally:
        unbounded.dispose()


def test_a_store_has_time_limits(one_connection):
    with one_connection.transaction() as connection:
        assert [connection.execute(text(f"SHOW {name}")).scalar_one() for name in LIMITS] == ["15s", "15s"]
