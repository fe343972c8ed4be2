"""The retention store: the SQL that expires and deletes old records, and finds out which blobs are referenced.

Each public method is one transaction. Every method raises DatabaseDown if the database does not answer.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection
from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, func, select, update
from sqlmodel import col

from pixtools.database.connection import Database
from pixtools.database.rows import group
from pixtools.database.tables import Artifact, Installation, Job, Part, Step
from pixtools.database.transitions import move_jobs, no_open_letter
from pixtools.states import JOB_MOVES, JobState, states_before

_BATCH = 500  # the largest number of jobs or artifacts in one transaction


class RetentionStore:
    """The records in one database, with the operations that the reconciler needs."""

    def __init__(self, database: Database) -> None:
        self._transaction = database.transaction

    def now(self) -> datetime:
        """Return the current time according to the clock of the database."""
        with self._transaction() as connection:
            now: datetime = connection.execute(select(func.now())).scalar_one()
            return now

    def database_id(self) -> uuid.UUID:
        """Return the id of this database. No other database has this id."""
        with self._transaction() as connection:
            found: uuid.UUID = connection.scalars(select(col(Installation.id))).one()
            return found

    def expire_jobs(self) -> list[list[str]]:
        """Expire at most 500 jobs whose retention is over. Return for each job the blob keys of its source and parts.

        A job with an open dead letter does not expire, because the dead letter may still be redriven.
        """
        query = (
            select(col(Job.id), col(Job.source_key))
            .where(
                col(Job.expires_at) < func.now(),
                col(Job.state).in_(states_before(JOB_MOVES, JobState.EXPIRED)),
                no_open_letter(),
            )
            .limit(_BATCH)
            .with_for_update(skip_locked=True)
        )
        with self._transaction() as connection:
            rows = connection.execute(query).all()
            if not rows:
                return []
            job_ids = [job_id for job_id, _ in rows]
            move_jobs(connection, job_ids, JobState.EXPIRED)
            connection.execute(update(Step).where(col(Step.job_id).in_(job_ids)).values(artifact_id=None))
            parts = select(col(Part.job_id), col(Part.blob_key)).where(col(Part.job_id).in_(job_ids))
            part_keys = group((job_id, key) for job_id, key in connection.execute(parts))
            return [[source_key, *part_keys[job_id]] for job_id, source_key in rows]

    def drop_artifacts(self) -> list[str]:
        """Delete at most 500 artifacts that no step uses. Return the keys of their blobs.

        The method locks the artifacts first and then looks for references again. If another transaction is just setting
        a reference, that transaction has locked the artifact, so this method skips the artifact. A later transaction
        finds that the artifact no longer exists.
        """
        unused = ~select(Step).where(col(Step.artifact_id) == col(Artifact.id)).exists()
        locked = select(col(Artifact.id)).where(unused).limit(_BATCH).with_for_update(skip_locked=True)
        with self._transaction() as connection:
            ids = list(connection.scalars(locked))
            statement = delete(Artifact).where(col(Artifact.id).in_(ids), unused)
            return list(connection.scalars(statement.returning(col(Artifact.blob_key))))

    def delete_expired_jobs(self, retention: timedelta) -> int:
        """Delete at most 500 jobs that expired more than `retention` ago, with all records that belong to these jobs.

        Return the number of deleted jobs.
        """
        old = (
            select(col(Job.id))
            .where(col(Job.state) == JobState.EXPIRED, col(Job.expires_at) < func.now() - retention)
            .limit(_BATCH)
        )
        statement = delete(Job).where(col(Job.id).in_(old)).returning(col(Job.id))
        with self._transaction() as connection:
            return len(connection.execute(statement).all())

    def unreferenced(self, blob_keys: Collection[str]) -> set[str]:
        """Return those of `blob_keys` that are used by no artifact and by no unexpired job."""
        with self._transaction() as connection:
            return set(blob_keys) - _referenced(connection, blob_keys)

    def artifacts_between(self, after: str, up_to: str | None) -> dict[str, bool]:
        """Return the artifacts in a range of blob keys: after `after`, up to and including `up_to`.

        If `up_to` is None, the range has no upper end. The result maps each blob key to True if the blob is known to be
        missing, and to False otherwise. The result is sorted by the bytes of the keys.
        """
        key = col(Artifact.blob_key)
        conditions = [key > after] if up_to is None else [key > after, key <= up_to]
        query = select(col(Artifact.blob_key), col(Artifact.lost_at).is_not(None)).where(*conditions).order_by(key)
        with self._transaction() as connection:
            return dict(connection.execute(query).all())

    def mark_lost(self, blob_key: str) -> None:
        """Record that the blob of an artifact is missing. No step takes this artifact from now on."""
        self._mark(blob_key, lost=True)

    def mark_found(self, blob_key: str) -> None:
        """Record that the blob of an artifact exists again."""
        self._mark(blob_key, lost=False)

    def _mark(self, blob_key: str, *, lost: bool) -> None:
        readers = (
            select(col(Step.job_id))
            .join(Artifact, col(Artifact.id) == col(Step.artifact_id))
            .where(col(Artifact.blob_key) == blob_key)
        )
        with self._transaction() as connection:
            # Lock jobs before the artifact, as all transactions do. The same order prevents deadlocks.
            locked = select(col(Job.id)).where(col(Job.id).in_(readers)).order_by(col(Job.id))
            job_ids = connection.scalars(locked.with_for_update(key_share=True)).all()
            connection.execute(update(Job).where(col(Job.id).in_(job_ids)).values(version=Job.version + 1))
            lost_at = func.now() if lost else None
            connection.execute(update(Artifact).where(col(Artifact.blob_key) == blob_key).values(lost_at=lost_at))


def _referenced(connection: Connection, blob_keys: Collection[str]) -> set[str]:
    artifacts = select(col(Artifact.blob_key)).where(col(Artifact.blob_key).in_(blob_keys))
    sources = select(col(Job.source_key)).where(
        col(Job.source_key).in_(blob_keys), col(Job.state) != JobState.EXPIRED,
    )  # fmt: skip
    parts = (
        select(col(Part.blob_key))
        .join(Job, col(Job.id) == col(Part.job_id))
        .where(col(Part.blob_key).in_(blob_keys), col(Job.state) != JobState.EXPIRED)
    )
    return {*connection.scalars(artifacts), *connection.scalars(sources), *connection.scalars(parts)}
