"""Records → answers: the JSON of the API, and where its presigned URLs are minted."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BaseModel, PlainSerializer

from dag.plan import file_name
from pixtools.blob_store import BlobStore
from pixtools.database.job_store import JobView
from pixtools.database.tables import Artifact, Job, Step
from pixtools.errors import ArtifactLost
from pixtools.operations import OPERATIONS
from pixtools.states import STEP_ENDED, JobState, StepState
from serve.problems import Problem

_LOST = ArtifactLost("Submit the image again to have it made anew.").problem()

Time = Annotated[datetime, PlainSerializer(lambda time: time.astimezone(UTC).isoformat().replace("+00:00", "Z"))]


class ArtifactAnswer(BaseModel):
    """A result. Its URL needs no credentials and works until `url_expires_at`; reading the job gives a new one."""

    url: str
    url_expires_at: Time
    name: str
    media_type: str
    width: int | None
    height: int | None
    bytes: int
    sha256: str


class StepAnswer(BaseModel):
    op: str
    input: list[str]
    params: dict[str, Any]
    state: StepState
    cached: bool
    attempt: int
    queued_ms: int | None
    run_ms: int | None
    error: Problem | None
    artifact: ArtifactAnswer | None
    result: dict[str, Any] | None


class SourceAnswer(BaseModel):
    name: str
    media_type: str
    width: int
    height: int
    bytes: int
    sha256: str


class PartAnswer(BaseModel):
    """A file that came beside the image."""

    media_type: str
    bytes: int
    sha256: str


class Progress(BaseModel):
    done: int
    total: int


class JobAnswer(BaseModel):
    id: uuid.UUID
    state: JobState
    batch: uuid.UUID | None
    created_at: Time
    finished_at: Time | None
    expires_at: Time | None
    source: SourceAnswer
    parts: dict[str, PartAnswer]
    progress: Progress
    steps: dict[str, StepAnswer]


class JobList(BaseModel):
    """Jobs, newest first; `next` is the cursor of the page that follows, if there is one."""

    jobs: list[JobAnswer]
    next: uuid.UUID | None


def job_answer(view: JobView, blobs: BlobStore) -> JobAnswer:
    job = view.job
    now = datetime.now(UTC)  # for the ends of URLs, which the signer's own clock decides
    return JobAnswer(
        id=job.id,
        state=JobState(job.state),
        batch=job.batch,
        created_at=job.created_at,
        finished_at=job.finished_at,
        expires_at=job.expires_at,
        source=SourceAnswer(
            name=job.source_name,
            media_type=job.source_media_type,
            width=job.source_width,
            height=job.source_height,
            bytes=job.source_bytes,
            sha256=job.source_sha256,
        ),
        parts={
            part.name: PartAnswer(media_type=part.media_type, bytes=part.bytes, sha256=part.sha256)
            for part in view.parts
        },
        progress=Progress(done=sum(step.state in STEP_ENDED for step in view.steps), total=len(view.steps)),
        steps={step.name: _step(job, step, view.artifacts.get(step.name), blobs, now) for step in view.steps},
    )


def _step(job: Job, step: Step, artifact: Artifact | None, blobs: BlobStore, now: datetime) -> StepAnswer:
    lost = artifact is not None and artifact.lost_at is not None
    waited = step.started_at - job.created_at if step.started_at else None
    return StepAnswer(
        op=step.op,
        input=step.inputs,
        params=step.params,
        state=StepState(step.state),
        cached=step.state == StepState.CACHED,
        attempt=step.attempt,
        queued_ms=round(waited.total_seconds() * 1000) if waited is not None else None,
        run_ms=step.run_ms,
        error=Problem.model_validate(step.error or _LOST) if step.error or lost else None,
        artifact=_artifact(job, step, artifact, blobs, now) if artifact and not lost else None,
        result=artifact.result if artifact else None,
    )


def _artifact(job: Job, step: Step, artifact: Artifact, blobs: BlobStore, now: datetime) -> ArtifactAnswer:
    name = file_name(job.source_name, step.name, OPERATIONS[step.op].extension)
    url, ends = blobs.url(artifact.blob_key, name, artifact.media_type, now)
    return ArtifactAnswer(
        url=url,
        url_expires_at=ends,
        name=name,
        media_type=artifact.media_type,
        width=artifact.width,
        height=artifact.height,
        bytes=artifact.bytes,
        sha256=artifact.sha256,
    )
