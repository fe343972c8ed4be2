"""The JSON bodies of jobs in the API, built from the records of the stores. This module also signs download URLs.

Signing a URL takes CPU time. Call `job_answer` in a thread, never on the event loop.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from functools import cache
from typing import Annotated, Any

from pydantic import BaseModel, PlainSerializer
from starlette.responses import Response

from dag.downloads import download
from pixtools.blob_store import BlobStore
from pixtools.errors import ArtifactLost
from pixtools.jobs.records import ArtifactRecord, JobRecord, StepRecord
from pixtools.jobs.views import JobSummary, JobView
from pixtools.states import STEP_ENDED, JobState, StepState
from serve.problems import Problem

_LOST = ArtifactLost("Submit the image again to make the file again.").problem()

Time = Annotated[datetime, PlainSerializer(lambda time: time.astimezone(UTC).isoformat().replace("+00:00", "Z"))]
"""A time with its time zone, written in UTC as ISO 8601 with the suffix `Z`."""


class ArtifactAnswer(BaseModel):
    """The file of a step. `url` works without credentials until `url_expires_at`. Read the job again for a new URL."""

    url: str
    url_expires_at: Time
    name: str
    media_type: str
    width: int | None
    height: int | None
    bytes: int
    sha256: str


class StepAnswer(BaseModel):
    """A step. `queued_ms` is the time between the creation of the job and the first start of the step.

    After a redrive of the step, the first start after the redrive counts.
    """

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
    """The uploaded image."""

    name: str
    media_type: str
    width: int
    height: int
    bytes: int
    sha256: str


class PartAnswer(BaseModel):
    """A further file of the request, such as a logo."""

    media_type: str
    bytes: int
    sha256: str


class JobProgress(BaseModel):
    """The number of steps that have ended, and the number of all steps."""

    done: int
    total: int


class JobAnswer(BaseModel):
    """A job with its steps and results."""

    id: uuid.UUID
    state: JobState
    batch: uuid.UUID | None
    created_at: Time
    finished_at: Time | None
    expires_at: Time | None
    source: SourceAnswer
    parts: dict[str, PartAnswer]
    webhook_url: str | None
    progress: JobProgress
    steps: dict[str, StepAnswer]


class StepSummaryAnswer(BaseModel):
    """A step in a list of jobs."""

    op: str
    state: StepState


class JobSummaryAnswer(BaseModel):
    """A job in a list of jobs. Read the job by its id to get the results and their download URLs."""

    id: uuid.UUID
    state: JobState
    batch: uuid.UUID | None
    created_at: Time
    finished_at: Time | None
    expires_at: Time | None
    source: SourceAnswer
    progress: JobProgress
    steps: dict[str, StepSummaryAnswer]


class JobList(BaseModel):
    """Summaries of jobs, newest first. `next` is the cursor of the next page, or null on the last page."""

    jobs: list[JobSummaryAnswer]
    next: uuid.UUID | None


def json_response(answer: BaseModel, status: int = 200) -> Response:
    """Return the response with the body `answer`.

    If a route returned the model, FastAPI would validate the model a second time. That would take longer than the rest
    of the route.
    """
    return Response(answer.model_dump_json(), status, media_type="application/json")


def job_answer(view: JobView, blobs: BlobStore, signed_at: datetime) -> JobAnswer:
    """Return the body for one job. Its download URLs are signed for the time `signed_at` (BlobStore.signing_time)."""
    job = view.job
    return JobAnswer(
        id=job.id,
        state=job.state,
        batch=job.batch,
        created_at=job.created_at,
        finished_at=job.finished_at,
        expires_at=job.expires_at,
        source=_source(job),
        parts={
            part.name: PartAnswer(media_type=part.media_type, bytes=part.bytes, sha256=part.sha256)
            for part in view.parts
        },
        webhook_url=job.webhook_url,
        progress=_progress([step.state for step in view.steps]),
        steps={step.name: _step(job, step, view.artifacts.get(step.name), blobs, signed_at) for step in view.steps},
    )


def job_list(summaries: list[JobSummary], limit: int) -> JobList:
    """Return a page of at most `limit` jobs.

    `summaries` may contain `limit + 1` jobs. The last of them only shows that another page follows. It is not returned.
    """
    following = summaries[limit - 1].job.id if len(summaries) > limit else None
    return JobList(jobs=[_summary(summary) for summary in summaries[:limit]], next=following)


def _summary(summary: JobSummary) -> JobSummaryAnswer:
    job = summary.job
    return JobSummaryAnswer(
        id=job.id,
        state=job.state,
        batch=job.batch,
        created_at=job.created_at,
        finished_at=job.finished_at,
        expires_at=job.expires_at,
        source=_source(job),
        progress=_progress([step.state for step in summary.steps]),
        steps={step.name: _step_summary(step.op, step.state) for step in summary.steps},
    )


@cache
def _step_summary(op: str, state: StepState) -> StepSummaryAnswer:
    """Return the summary of a step. A page may have thousands of steps, but few summaries differ."""
    return StepSummaryAnswer(op=op, state=state)


def _source(job: JobRecord) -> SourceAnswer:
    return SourceAnswer(
        name=job.source_name,
        media_type=job.source_media_type,
        width=job.source_width,
        height=job.source_height,
        bytes=job.source_bytes,
        sha256=job.source_sha256,
    )


def _progress(states: list[StepState]) -> JobProgress:
    return JobProgress(done=sum(state in STEP_ENDED for state in states), total=len(states))


def _step(
    job: JobRecord, step: StepRecord, artifact: ArtifactRecord | None, blobs: BlobStore, signed_at: datetime
) -> StepAnswer:
    lost = artifact is not None and artifact.lost_at is not None
    queued = step.started_at - job.created_at if step.started_at else None
    return StepAnswer(
        op=step.op,
        input=list(step.inputs),
        params=step.params,
        state=step.state,
        cached=step.state == StepState.CACHED,
        attempt=step.attempt,
        queued_ms=round(queued.total_seconds() * 1000) if queued is not None else None,
        run_ms=step.run_ms,
        error=Problem.model_validate(step.error or _LOST) if step.error or lost else None,
        artifact=_artifact(job, step, artifact, blobs, signed_at) if artifact and not lost else None,
        result=artifact.result if artifact else None,
    )


def _artifact(
    job: JobRecord, step: StepRecord, artifact: ArtifactRecord, blobs: BlobStore, signed_at: datetime
) -> ArtifactAnswer:
    file = download(blobs, job, step.name, step.op, artifact, signed_at)
    return ArtifactAnswer(
        url=file.url,
        url_expires_at=file.expires_at,
        name=file.name,
        media_type=artifact.media_type,
        width=artifact.width,
        height=artifact.height,
        bytes=artifact.bytes,
        sha256=artifact.sha256,
    )
