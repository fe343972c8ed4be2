"""Postgres as the stores reach it: one pool of connections, and transactions whose outages have one name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine, create_engine, select
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlmodel import Session

from pixtools.errors import DatabaseDown
from pixtools.settings import Settings


class Database:
    def __init__(self, settings: Settings, pool_size: int = 5, name: str = "pixtools") -> None:
        """`name` is what Postgres calls our connections."""
        self._engine = engine(settings.database_url.get_secret_value(), pool_size, name)

    def ping(self) -> None:
        with self.transaction() as session:
            session.execute(select(1))

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """Commit on leaving, unless an exception leaves; raises DatabaseDown where the database does not answer, or
        gave a statement up for want of time or to end a deadlock.

        After a DatabaseDown nobody knows whether the commit went through: what follows must bear both.
        """
        try:
            with Session(self._engine, expire_on_commit=False) as session, session.begin():
                yield session
        except (OperationalError, PoolTimeout) as error:
            raise DatabaseDown(type(error).__name__) from error
        except DBAPIError as error:
            if error.connection_invalidated:
                raise DatabaseDown(type(error).__name__) from error
            raise

    def close(self) -> None:
        self._engine.dispose()


def engine(url: str, pool_size: int, name: str = "pixtools") -> Engine:
    scheme, _, rest = url.partition("://")
    if scheme not in ("postgresql", "postgres", "postgresql+psycopg"):
        raise ValueError("PIXTOOLS_DATABASE_URL must begin with postgresql://")
    return create_engine(
        f"postgresql+psycopg://{rest}",
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=10,
        pool_pre_ping=True,
        connect_args={
            "application_name": name,
            "connect_timeout": 5,
            "options": "-c statement_timeout=15s -c lock_timeout=15s",
            "tcp_user_timeout": 15_000,  # a server that is cut off cannot time out its statements
            "keepalives_idle": 10,
        },
    )
