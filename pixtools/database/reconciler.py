"""The reconciler keeps the database and the bucket consistent with each other.

The reconciler expires jobs, deletes records after their retention, deletes orphaned blobs, and marks artifacts whose
blob is missing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import chain

from pixtools.blob_store import ARTIFACTS, DATABASE, SOURCES, Blob, BlobStore
from pixtools.database.retention_store import RetentionStore
from pixtools.errors import ObjectMissing
from pixtools.settings import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reconciled:
    """How many records and blobs one run changed."""

    expired: int  # jobs whose retention ended
    forgotten: int  # expired jobs whose records were deleted
    dropped: int  # artifacts without a step
    orphans: int  # blobs without a record
    lost: int  # artifacts whose blob was found to be missing
    found: int  # artifacts whose missing blob exists again


class Reconciler:
    """Compares the records of one database with the blobs of one bucket.

    One run at a time is enough. Two runs at the same time do no harm.
    """

    def __init__(self, settings: Settings, store: RetentionStore, blobs: BlobStore) -> None:
        self._settings = settings
        self._store = store
        self._blobs = blobs

    def run(self) -> Reconciled:
        """Do all tasks of the reconciler once.

        If DatabaseDown, StorageDown or StorageRefused ends this run, the next run does the rest.

        An orphan is a blob that has no record and is older than `orphan_age`. The process that put the blob has died or
        has lost its lease. Each blob key is used once, so no record will ever refer to an orphan.
        """
        expired = self._repeat(self._store.expire_jobs)
        dropped = self._repeat(lambda: [[key] for key in self._store.drop_artifacts()])
        forgotten = 0
        while number := self._store.delete_expired_jobs(self._settings.record_retention):
            forgotten += number
        orphans = lost = found = 0
        if self._bucket_is_ours():
            orphans, lost, found = self._compare_bucket()
        done = Reconciled(expired, forgotten, dropped, orphans, lost, found)
        log.info("reconciled: %s", " ".join(f"{name}={number}" for name, number in asdict(done).items()))
        return done

    def _bucket_is_ours(self) -> bool:
        """Return whether the bucket belongs to this database. Log an error if it belongs to another database.

        A bucket without an owner becomes the bucket of this database. In the bucket of another database, every blob
        would look like an orphan.
        """
        ours = str(self._store.database_id()).encode()
        try:
            theirs = self._blobs.get(DATABASE)
        except ObjectMissing:
            self._blobs.put(DATABASE, ours, "text/plain")
            return True
        if theirs != ours:
            log.error(
                "this bucket belongs to another database: nothing in it is compared or deleted. "
                "If that database no longer exists, delete the object %s", DATABASE,
            )  # fmt: skip
        return theirs == ours

    def _compare_bucket(self) -> tuple[int, int, int]:
        """Compare the whole bucket with the records. Return the numbers of orphans, lost and found artifacts."""
        newest = self._store.now() - self._settings.orphan_age
        orphans = sum(self._delete_orphans(page, newest) for page in self._blobs.pages(SOURCES))
        lost = found = 0
        after = ""
        # The last range begins after the last blob. This range contains artifacts but no blobs.
        for page in chain(self._blobs.pages(ARTIFACTS), [None]):
            up_to = max((blob.key for blob in page), default=after) if page is not None else None
            orphans += self._delete_orphans(page or [], newest)
            newly_lost, newly_found = self._mark_artifacts(page or [], self._store.artifacts_between(after, up_to))
            lost, found, after = lost + newly_lost, found + newly_found, up_to or after
        return orphans, lost, found

    def _repeat(self, release: Callable[[], list[list[str]]]) -> int:
        """Call `release` until it returns nothing. Return how many records it released.

        Each call releases some records and returns the blob keys of each record. A blob is deleted if no other record
        refers to it.
        """
        released = 0
        while keys := release():
            # Another job may refer to this source, because in version 0001 several jobs shared a source.
            self._blobs.delete(self._store.unreferenced(list(chain.from_iterable(keys))))
            released += len(keys)
        return released

    def _delete_orphans(self, page: list[Blob], newest: datetime) -> int:
        """Delete the blobs of a page that have no record and are older than `newest`. Return their number."""
        orphans = self._store.unreferenced([blob.key for blob in page if blob.modified_at < newest])
        for key in orphans:
            log.info("orphan: key=%s", key)
        self._blobs.delete(orphans)
        return len(orphans)

    def _mark_artifacts(self, page: list[Blob], is_lost: dict[str, bool]) -> tuple[int, int]:
        """Mark the artifacts whose blob is missing, and the artifacts whose blob exists again. Return both numbers.

        `is_lost` contains every artifact in the range of keys that the page covers. Each blob key is mapped to True if
        the artifact is marked as lost.
        """
        lost = found = 0
        existing = {blob.key for blob in page}
        for key, was_lost in is_lost.items():
            if key in existing and was_lost:
                self._store.mark_found(key)
                found += 1
            # The blob may be newer than the page, so ask S3 for the blob before marking the artifact.
            elif key not in existing and not was_lost and not self._blobs.exists(key):
                log.error("artifact lost: key=%s", key)
                self._store.mark_lost(key)
                lost += 1
        return lost, found
