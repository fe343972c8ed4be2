"""The connection to Postgres: one pool of connections, and transactions that report every outage as DatabaseDown."""

from __future__ import annotations

import select
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import psycopg
import sqlalchemy
from psycopg.abc import PQGen
from psycopg.errors import _WaitTimeout
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, InvalidatePoolError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import ConnectionPoolEntry

from pixtools.errors import DatabaseDown
from pixtools.settings import Settings

ANSWER_TIMEOUT_S = 17.0
"""Longest wait for an answer of Postgres.

This wait is longer than `statement_timeout`, so a working server answers earlier. The wait is also short enough for the
leases: with the default settings, a dispatcher that gets no answer to a renewal can repeat it before the lease of
30 s runs out. The first try begins 10 s after the last renewal and takes 17 s. The second try begins 1 s later.
"""

_IS_KNOWN = "is known"  # a note at each connection that was checked out before

T = TypeVar("T")


class BoundedConnection(psycopg.Connection[Any]):
    """A connection that is closed if Postgres does not answer within `ANSWER_TIMEOUT_S`.

    `statement_timeout` cannot end a statement while the processes of Postgres are frozen, for example because their
    disk does not respond. The kernel of that machine still acknowledges packets, so TCP timeouts do not apply either.
    """

    def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
        """Wait for the answer of the server. Raises psycopg.OperationalError if the answer does not arrive in time.

        The longest wait is `timeout` seconds. If `timeout` is None, the longest wait is `ANSWER_TIMEOUT_S`, and then
        the connection is closed.
        """
        if timeout is not None:
            return super().wait(gen, interval, timeout)  # the caller chose this timeout and handles the error
        try:
            return super().wait(gen, interval, ANSWER_TIMEOUT_S)
        except _WaitTimeout as error:
            self.close()
            raise psycopg.OperationalError(f"the server did not answer within {ANSWER_TIMEOUT_S:g} s") from error


class Database:
    """A pool of connections to one database."""

    def __init__(self, settings: Settings, pool_size: int = 5, name: str = "pixtools") -> None:
        """`name` is the application name that Postgres shows for these connections."""
        self._engine = engine(settings.database_url.get_secret_value(), pool_size, name)
        self._autocommit = self._engine.execution_options(isolation_level="AUTOCOMMIT")

    def ping(self) -> None:
        """Run a query that reads no table. Raises DatabaseDown if the database does not answer."""
        with self.reading() as connection:
            connection.execute(sqlalchemy.select(1))

    def transaction(self) -> AbstractContextManager[Connection]:
        """Run the body in one transaction: commit when the body ends, roll back if the body raises.

        Raises DatabaseDown if the database does not answer, or if the database cancelled a statement because of a
        timeout or a deadlock. The `__cause__` of DatabaseDown is the error of SQLAlchemy. The commit may have succeeded
        although DatabaseDown was raised, so the caller must be correct in both cases.
        """
        return self._translated(self._engine.begin)

    def reading(self) -> AbstractContextManager[Connection]:
        """Run queries that neither change nor lock rows. Each query sees what was committed when it began.

        This saves BEGIN and COMMIT, so a single query is a single message to the server. Raises DatabaseDown as
        `transaction` does.
        """
        return self._translated(self._autocommit.connect)

    @contextmanager
    def _translated(self, connect: Callable[[], AbstractContextManager[Connection]]) -> Iterator[Connection]:
        try:
            with connect() as connection:
                yield connection
        except (OperationalError, PoolTimeout) as error:
            raise DatabaseDown(type(error).__name__) from error
        except DBAPIError as error:
            if error.connection_invalidated:
                raise DatabaseDown(type(error).__name__) from error
            raise

    def close(self) -> None:
        """Close the connections of the pool."""
        self._engine.dispose()


def engine(url: str, pool_size: int, name: str = "pixtools", *, bounded: bool = True) -> Engine:
    """Return an engine with at most `pool_size` connections. Raises ValueError if `url` is not a Postgres URL.

    If `bounded` is true, Postgres ends a statement or a wait for a lock after 15 s, and a connection is closed when
    Postgres does not answer within `ANSWER_TIMEOUT_S`. If `bounded` is false, there is no time limit.
    """
    scheme, _, rest = url.partition("://")
    if scheme not in ("postgresql", "postgres", "postgresql+psycopg"):
        raise ValueError("PIXTOOLS_DATABASE_URL must begin with postgresql://")
    limit = "15s" if bounded else "0"
    new = create_engine(
        f"postgresql+psycopg://{rest}",
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=10,
        hide_parameters=True,  # the log must not contain URLs and secrets of clients
        connect_args={
            "application_name": name,
            "connect_timeout": 5,
            "options": f"-c statement_timeout={limit} -c lock_timeout={limit}",
            # If the network is cut, this client does not learn that one of the timeouts above ended its statement. So
            # the client needs its own timeout.
            "tcp_user_timeout": 15_000,
            "keepalives_idle": 10,
        },
    )
    event.listen(new, "checkout", _require_open)
    if bounded:
        event.listen(new, "do_connect", _connect_bounded)
    return new


def _require_open(connection: psycopg.Connection[Any], record: ConnectionPoolEntry, _proxy: object) -> None:
    """Refuse an idle connection that the server has closed, so that the pool replaces all its connections.

    A server says nothing on an idle connection, except when it ends the connection. So if there is something to read,
    the connection is useless. This check sends no message to the server, unlike the check of SQLAlchemy
    (`pool_pre_ping`). It does not notice a server that vanished without closing the connection. Then the next call
    fails after a timeout.
    """
    # Do not check a new connection. After two failed checks, SQLAlchemy raises an error that looks like a bug of the
    # caller, and not like an outage.
    is_new = not record.info.get(_IS_KNOWN)
    record.info[_IS_KNOWN] = True
    if not is_new and (connection.closed or _is_readable(connection.fileno())):
        raise InvalidatePoolError


def _is_readable(descriptor: int) -> bool:
    """Return whether data have arrived or the other side has closed the connection."""
    poll = select.poll()  # select.select fails for descriptors from 1024 on
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def _connect_bounded(_dialect: object, _record: object, args: list[Any], options: dict[str, Any]) -> BoundedConnection:
    return BoundedConnection.connect(*args, **options)
