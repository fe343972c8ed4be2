"""Makes the archive of a job: a ZIP of its files.

The archive is made when a client asks for it. A further job of the same owner makes it. This job has the same source,
the same steps, and a `zip` step that reads their files. All other steps are answered from the step cache. The requests
for one archive share one job.
"""

from __future__ import annotations

import uuid
from contextlib import suppress
from dataclasses import dataclass, replace

from starlette.concurrency import run_in_threadpool
from uuid6 import uuid7

from dag.downloads import download
from dag.plan import Plan
from dag.specification import build
from dag.stored_plan import (
    archive_in,
    archived_steps,
    document_of,
    free_name,
    needed_for,
    parts_for,
    source_of,
    steps_to_store,
)
from pixtools import logs, tracing
from pixtools.blob_store import BlobStore, part_key, source_key
from pixtools.database.job_store import JobStore
from pixtools.errors import (
    ArchiveNotReady,
    ArtifactLost,
    JobNotEnded,
    NoFiles,
    PixToolsError,
    ResultsTooLarge,
    error_class,
)
from pixtools.jobs.records import JobRecord, PartRecord, StepRecord
from pixtools.jobs.submission import Accepted, Idempotency, IdempotencyScope, NewJob
from pixtools.jobs.views import JobView
from pixtools.operations.zip import ZIP
from pixtools.redis.hints import QUEUED, Hints
from pixtools.settings import Settings
from pixtools.states import JOB_ENDED, JobState
from serve.admission import Admission
from serve.progress import ProgressFeed

_ROUTE = "archive"  # the route in the scope of the idempotency keys; no HTTP request has it
_MAX_WAIT_S = 8.0


@dataclass(frozen=True)
class Archives:
    """Finds or makes the archives of jobs."""

    settings: Settings
    store: JobStore
    blobs: BlobStore
    admission: Admission
    feed: ProgressFeed
    hints: Hints

    async def url(self, owner: str, job_id: uuid.UUID) -> str:
        """Return the download URL of the archive of a job, after at most some seconds.

        Raises NotFound if the owner has no such job, JobNotEnded, NoFiles, ResultsTooLarge, and ArchiveNotReady if
        making the archive takes longer. Raises ServiceFull if there is no room for a job, StorageDown, DatabaseDown,
        and the error of the step that makes the archive.
        """
        view = await run_in_threadpool(self.store.get, owner, job_id)
        if (made := archive_in(view)) is not None:
            return await run_in_threadpool(self._url, owner, job_id, made)
        recipe = await run_in_threadpool(self._recipe, view)
        accepted = await run_in_threadpool(self._stored, recipe)
        if accepted is None:
            await self.admission.require_room()
            accepted = await run_in_threadpool(self._submit, recipe)
            self.admission.count(0)
            await self.hints.publish(QUEUED, "")
        if self.feed.has_capacity:
            await self.feed.wait_for_end(owner, accepted.job_id, _MAX_WAIT_S, is_new=not accepted.replayed)
        return await run_in_threadpool(self._url, owner, accepted.job_id, recipe.step)

    def _recipe(self, view: JobView) -> _Recipe:
        """Return how to make the archive of a job. Raises JobNotEnded, NoFiles and ResultsTooLarge."""
        if view.job.state not in JOB_ENDED:
            raise JobNotEnded(f"Job {view.job.id} is {view.job.state}. Ask for the archive when it has ended.")
        archived = archived_steps(view)
        if not archived:
            raise NoFiles(f"Job {view.job.id} has no files, or they were deleted.")
        most = self.settings.max_job_bytes
        if 2 * sum(view.artifacts[name].bytes for name in archived) > most:
            raise ResultsTooLarge(
                f"The files of job {view.job.id} and a ZIP of them are larger than {most:,} bytes. Download each file."
            )
        steps = needed_for(archived, view)
        parts = parts_for(steps, view)
        step = free_name("archive", (each.name for each in steps))
        document = document_of(steps) | {step: {"op": ZIP.name, "input": archived}}
        limits, weights = self.settings.image_limits(), self.settings.weights_sha256
        plan = build(document, source_of(view.job, parts), len(document), limits, weights, is_stored=True)
        return _Recipe(view.job, steps, parts, plan, step)

    def _stored(self, recipe: _Recipe) -> Accepted | None:
        return self.store.replay(recipe.idempotency)

    def _submit(self, recipe: _Recipe) -> Accepted:
        """Store the job that makes an archive. Each job has its own copies of the source and of the parts."""
        new, copies = recipe.new_job()
        for key, new_key in copies.items():
            self.blobs.copy(key, new_key)
        accepted = self.store.submit_once(replace(new, created_at=self.store.now()), recipe.idempotency, b"")
        if accepted.replayed:  # another request was stored first, so no job refers to these copies
            with suppress(PixToolsError):  # if this fails, the reconciler deletes the copies later
                self.blobs.delete(copies.values())
        return accepted

    def _url(self, owner: str, job_id: uuid.UUID, step: str) -> str:
        """Return the URL of the file of a step. Raises ArchiveNotReady, and the error of a step that has no file."""
        view = self.store.get(owner, job_id)
        artifact = view.artifacts.get(step)
        if artifact is not None and artifact.lost_at is None:
            return download(self.blobs, view.job, step, ZIP.name, artifact, self.blobs.signing_time()).url
        if view.job.state not in JOB_ENDED:
            raise ArchiveNotReady(f"Send the request again. Job {job_id} makes the archive.")
        raise _failure(view)


@dataclass(frozen=True)
class _Recipe:
    """How to make the archive of `job`: steps and parts of the job, the plan with them, and the step `step` of ZIP."""

    job: JobRecord
    steps: list[StepRecord]
    parts: list[PartRecord]
    plan: Plan
    step: str

    @property
    def idempotency(self) -> Idempotency:
        """The identity of all requests for this archive. If the job gets another file, it is another archive."""
        scope = IdempotencyScope(self.job.owner, _ROUTE, f"{self.job.id} {self.plan.by_name[self.step].key}")
        return Idempotency(scope, self.plan.by_name[self.step].key)

    def new_job(self) -> tuple[NewJob, dict[str, str]]:
        """Return the job that makes the archive, and a map from the key of each file to the key of its copy."""
        job, job_id = self.job, uuid7()
        parts = [replace(each, blob_key=part_key(job.owner, each.sha256, job_id, each.name)) for each in self.parts]
        key = source_key(job.owner, job.source_sha256, job_id)
        copied = zip(self.parts, parts, strict=True)
        copies = {job.source_key: key} | {old.blob_key: new.blob_key for old, new in copied}
        new = NewJob(
            id=job_id,
            owner=job.owner,
            source_key=key,
            source_name=job.source_name,
            source_media_type=job.source_media_type,
            source_width=job.source_width,
            source_height=job.source_height,
            source_frames=job.source_frames,
            source_bytes=job.source_bytes,
            source_sha256=job.source_sha256,
            pixels=0,  # the step cache has all pictures
            steps=steps_to_store(self.plan),
            parts=tuple(parts),
            request_id=logs.ids().get("request_id"),
            traceparent=tracing.current(),
        )
        return new, copies


def _failure(view: JobView) -> PixToolsError:
    """Return why a job that has ended left no archive."""
    for step in view.steps:
        if step.error is not None:
            kind = error_class(step.error["code"]) or PixToolsError
            return kind(step.error["detail"])
    if view.job.state == JobState.CANCELLED:
        return NoFiles(f"Job {view.job.id}, which made the archive, was cancelled. Ask for it again tomorrow.")
    return ArtifactLost("Ask for the archive again tomorrow, or submit the image again.")
