"""Makes the stores agree: what is past its time goes, what nothing refers to goes, what is missing is known."""

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
    expired: int  # jobs
    forgotten: int  # jobs, with all that was known of them
    dropped: int  # artifacts that no job refers to
    orphans: int  # objects that no record refers to
    lost: int  # artifacts whose objects are missing, newly found
    found: int  # artifacts that were thought lost and are there


class Reconciler:
    """One run at a time is enough; two do no harm."""

    def __init__(self, settings: Settings, store: RetentionStore, blobs: BlobStore) -> None:
        self._settings = settings
        self._store = store
        self._blobs = blobs

    def run(self) -> Reconciled:
        """Do all of it once. Raises DatabaseDown, StorageDown and StorageRefused; the next run goes on from there.

        An object's key is used once, so one that nothing refers to will never be referred to again: whoever put it
        there has died since, or lost its lease. Only the youngest may still be on their way into a record.
        """
        expired = self._free(self._store.expire_jobs)
        dropped = self._free(lambda: [[key] for key in self._store.drop_artifacts()])
        forgotten = 0
        while number := self._store.forget_jobs(self._settings.record_retention):
            forgotten += number
        orphans = lost = found = 0
        if self._bucket_is_ours():
            orphans, lost, found = self._walk()
        done = Reconciled(expired, forgotten, dropped, orphans, lost, found)
        log.info("reconciled: %s", " ".join(f"{name}={number}" for name, number in asdict(done).items()))
        return done

    def _bucket_is_ours(self) -> bool:
        """Say whether the bucket belongs to this database: to another one, all its files would be orphans."""
        ours = str(self._store.database_id()).encode()
        try:
            theirs = self._blobs.get(DATABASE)
        except ObjectMissing:
            self._blobs.put(DATABASE, ours, "text/plain")
            return True
        if theirs != ours:
            log.error(
                "this bucket belongs to another database: nothing in it is compared or deleted. "
                "If that database is gone for good, delete the object %s", DATABASE,
            )  # fmt: skip
        return theirs == ours

    def _walk(self) -> tuple[int, int, int]:
        """Go through the bucket; return how many orphans went, and how many artifacts are newly lost and found."""
        too_young = self._store.now() - self._settings.orphan_age
        orphans = sum(self._sweep(page, too_young) for page in self._blobs.pages(SOURCES))
        lost = found = 0
        after = ""
        for page in chain(self._blobs.pages(ARTIFACTS), [None]):
            upto = max((blob.key for blob in page), default=after) if page is not None else None
            orphans += self._sweep(page or [], too_young)
            newly_lost, newly_found = self._compare(page or [], self._store.artifacts_between(after, upto))
            lost, found, after = lost + newly_lost, found + newly_found, upto or after
        return orphans, lost, found

    def _free(self, step: Callable[[], list[list[str]]]) -> int:
        """Repeat a step that lets go of some records at a time, each with its objects, until none is left."""
        freed = 0
        while keys := step():
            # Version 0001 shared sources between jobs.
            self._blobs.delete(self._store.unreferenced(list(chain.from_iterable(keys))))
            freed += len(keys)
        return freed

    def _sweep(self, page: list[Blob], too_young: datetime) -> int:
        """Delete the objects to which nothing refers; return how many."""
        orphans = self._store.unreferenced([blob.key for blob in page if blob.modified_at < too_young])
        for key in orphans:
            log.info("orphan: key=%s", key)
        self._blobs.delete(orphans)
        return len(orphans)

    def _compare(self, page: list[Blob], known: dict[str, bool]) -> tuple[int, int]:
        """Look for the object of every artifact known in a range; return how many are newly lost, newly found."""
        lost = found = 0
        there = {blob.key for blob in page}
        for key, is_lost in known.items():
            if key in there and is_lost:
                self._store.mark_found(key)
                found += 1
            elif key not in there and not is_lost and not self._blobs.exists(key):  # it may be newer than the list
                log.error("artifact lost: key=%s", key)
                self._store.mark_lost(key)
                lost += 1
        return lost, found
