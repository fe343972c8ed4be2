"""All SQL of what is kept and for how long: jobs and artifacts past their time, and which files are referred to.

Each public method is one transaction. A database that does not answer raises DatabaseDown.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection
from datetime import datetime, timedelta

from sqlalchemy import delete, func, select, update
from sqlmodel import Session, col

from pixtools.database.connection import Database
from pixtools.database.tables import Artifact, Installation, Job, Part, Step
from pixtools.database.transitions import move_job, no_open_letter
from pixtools.states import JOB_MOVES, JobState, origins

_AT_ONCE = 500


class RetentionStore:
    def __init__(self, database: Database) -> None:
        self._transaction = database.transaction

    def now(self) -> datetime:
        with self._transaction() as session:
            now: datetime = session.execute(select(func.now())).scalar_one()
            return now

    def database_id(self) -> uuid.UUID:
        """Return what tells this database from every other."""
        with self._transaction() as session:
            found: uuid.UUID = session.scalars(select(col(Installation.id))).one()
            return found

    def expire_jobs(self) -> list[list[str]]:
        """Expire some jobs whose results were kept long enough; return the keys of the source and parts of each.

        One with a dead letter that somebody may still redrive stays.
        """
        due = (
            select(col(Job.id), col(Job.source_key))
            .where(
                col(Job.expires_at) < func.now(),
                col(Job.state).in_(origins(JOB_MOVES, JobState.EXPIRED)),
                no_open_letter(),
            )
            .limit(_AT_ONCE)
            .with_for_update(skip_locked=True)
        )
        with self._transaction() as session:
            rows = session.execute(due).all()
            for job_id, _ in rows:
                move_job(session, job_id, JobState.EXPIRED)
                session.execute(update(Step).where(col(Step.job_id) == job_id).values(artifact_id=None))
            query = select(Part).where(col(Part.job_id).in_([job_id for job_id, _ in rows]))
            parts = session.scalars(query).all() if rows else []
            return [[key, *(part.blob_key for part in parts if part.job_id == job_id)] for job_id, key in rows]

    def drop_artifacts(self) -> list[str]:
        """Delete some artifacts that no step refers to any more; return the keys of their files.

        First locked, then looked at again: a step that came to refer to one meanwhile holds a lock on it, and one
        that wants to afterwards finds it gone.
        """
        unused = ~select(Step).where(col(Step.artifact_id) == col(Artifact.id)).exists()
        locked = select(col(Artifact.id)).where(unused).limit(_AT_ONCE).with_for_update(skip_locked=True)
        with self._transaction() as session:
            ids = list(session.scalars(locked))
            statement = delete(Artifact).where(col(Artifact.id).in_(ids), unused)
            return list(session.scalars(statement.returning(col(Artifact.blob_key))))

    def forget_jobs(self, retention: timedelta) -> int:
        """Delete some jobs that expired longer than `retention` ago, with all that is known of them."""
        old = select(col(Job.id)).where(
            col(Job.state) == JobState.EXPIRED, col(Job.expires_at) < func.now() - retention,
        ).limit(_AT_ONCE)  # fmt: skip
        statement = delete(Job).where(col(Job.id).in_(old)).returning(col(Job.id))
        with self._transaction() as session:
            return len(session.execute(statement).all())

    def unreferenced(self, blob_keys: Collection[str]) -> set[str]:
        """Return those of `blob_keys` that no artifact and no job that has not expired refers to."""
        with self._transaction() as session:
            return set(blob_keys) - _referenced(session, blob_keys)

    def artifacts_between(self, after: str, upto: str | None) -> dict[str, bool]:
        """Return the artifacts whose blob key lies in the range: whether each is known to be lost, by its key."""
        key = col(Artifact.blob_key)
        wanted = [key > after] if upto is None else [key > after, key <= upto]
        query = select(col(Artifact.blob_key), col(Artifact.lost_at).is_not(None)).where(*wanted).order_by(key)
        with self._transaction() as session:
            return dict(session.execute(query).all())

    def mark_lost(self, blob_key: str) -> None:
        """Remember that the file of an artifact is missing: no step is answered from it any more."""
        self._mark(blob_key, lost=True)

    def mark_found(self, blob_key: str) -> None:
        self._mark(blob_key, lost=False)

    def _mark(self, blob_key: str, *, lost: bool) -> None:
        readers = (
            select(col(Step.job_id))
            .join(Artifact, col(Artifact.id) == col(Step.artifact_id))
            .where(col(Artifact.blob_key) == blob_key)
        )
        with self._transaction() as session:
            # Jobs before the artifact, as everybody who touches both.
            locked = select(col(Job.id)).where(col(Job.id).in_(readers)).order_by(col(Job.id))
            jobs = session.scalars(locked.with_for_update(key_share=True)).all()
            session.execute(update(Job).where(col(Job.id).in_(jobs)).values(version=Job.version + 1))
            found_at = func.now() if lost else None
            session.execute(update(Artifact).where(col(Artifact.blob_key) == blob_key).values(lost_at=found_at))


def _referenced(session: Session, blob_keys: Collection[str]) -> set[str]:
    artifacts = select(col(Artifact.blob_key)).where(col(Artifact.blob_key).in_(blob_keys))
    sources = select(col(Job.source_key)).where(
        col(Job.source_key).in_(blob_keys), col(Job.state) != JobState.EXPIRED,
    )  # fmt: skip
    parts = select(col(Part.blob_key)).join(Job, col(Job.id) == col(Part.job_id)).where(
        col(Part.blob_key).in_(blob_keys), col(Job.state) != JobState.EXPIRED,
    )  # fmt: skip
    return {*session.scalars(artifacts), *session.scalars(sources), *session.scalars(parts)}
