"""A real database that calls a hook just before each commit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy import Connection

from pixtools.database.connection import Database
from pixtools.settings import Settings


class HookedDatabase(Database):
    """A database that calls `before_commit` at the end of each transaction, just before the commit."""

    def __init__(self, settings: Settings, before_commit: Callable[[], object]) -> None:
        super().__init__(settings)
        self._before_commit = before_commit

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Run the body in a transaction, and call the hook before the commit."""
        with super().transaction() as connection:
            yield connection
            self._before_commit()
