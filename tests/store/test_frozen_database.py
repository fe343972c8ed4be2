"""A call ends although Postgres keeps the connection and does not answer. The tests freeze real server processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from sqlalchemy import Connection, text

from pixtools.database import connection as database_connection
from pixtools.database.connection import Database
from pixtools.errors import DatabaseDown
from pixtools.logs import reason


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
    """Return the server process of the next connection of the pool."""
    with database.transaction() as connection:
        return server_process(connection)


def run(database: Database, *statements: str) -> None:
    with database.transaction() as connection:
        for statement in statements:
            connection.execute(text(statement))


def run_and_freeze(database: Database, stack: ExitStack) -> None:
    """Freeze the server process before the commit. It stays frozen until `stack` is closed."""
    with database.transaction() as connection:
        stack.enter_context(frozen(server_process(connection)))


def freeze_and_run(database: Database, statement: str) -> None:
    """Freeze the server process during a transaction, and run a statement."""
    with database.transaction() as connection, frozen(server_process(connection)):
        connection.execute(text(statement))


def test_a_statement_that_gets_no_answer_ends_with_database_down(one_connection):
    with pytest.raises(DatabaseDown) as raised:
        freeze_and_run(one_connection, "SELECT 1")

    assert "did not answer within 3 s" in reason(raised.value)


def test_a_commit_that_gets_no_answer_ends_with_database_down(one_connection):
    with ExitStack() as stack, pytest.raises(DatabaseDown):
        run_and_freeze(one_connection, stack)


def test_a_pooled_connection_that_is_frozen_is_replaced(one_connection):
    pid = pid_of(one_connection)

    with frozen(pid):
        assert pid_of(one_connection) != pid


def test_a_statement_that_the_server_ends_keeps_its_connection(one_connection):
    pid = pid_of(one_connection)

    with pytest.raises(DatabaseDown) as raised:
        run(one_connection, "SET LOCAL statement_timeout = '200ms'", "SELECT pg_sleep(60)")

    assert "statement timeout" in reason(raised.value)
    assert pid_of(one_connection) == pid
