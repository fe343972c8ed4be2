"""The environment of Alembic. It applies the migrations. A lock allows only one process at a time to do this."""

from __future__ import annotations

from alembic import context
from sqlalchemy import text

from pixtools.database.connection import engine
from pixtools.database.tables import Job

_LOCK = 7_105_921  # number of the lock: an arbitrary number that all migrating processes use

# A migration of a large table may take longer than any other statement, so nothing limits its time.
database = engine(context.config.attributes["database_url"], pool_size=1, bounded=False)
with database.connect() as connection:
    context.configure(connection=connection, target_metadata=Job.metadata)
    with context.begin_transaction():
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        context.run_migrations()
database.dispose()
