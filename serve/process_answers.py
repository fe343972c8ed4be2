"""The further fields of jobs of `POST /api/process`, as the clients of the first PixTools expect them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from dag.process_form import is_result
from pixtools.blob_store import BlobStore
from pixtools.jobs.process_status import ProcessStatus, process_status
from pixtools.jobs.views import JobView
from pixtools.states import JOB_ENDED, JobState, StepState, job_state_after
from serve.answers import JobAnswer, job_answer


class Place(BaseModel):
    """Where the picture was taken, in degrees. North and east are positive."""

    latitude: float
    longitude: float


class ProcessMetadata(BaseModel):
    """What the camera stored. Values that the file does not have are left out."""

    camera_make: str | None = None
    camera_model: str | None = None
    lens_model: str | None = None
    captured_at: str | None = Field(None, description="local time as in the file, such as `2026:02:03 04:05:06`")
    exposure_time: str | None = Field(None, description="seconds, such as `1/250s`")
    aperture: str | None = Field(None, description="such as `f/2.8`")
    iso: int | None = None
    gps: Place | None = None


class ProcessJobAnswer(JobAnswer):
    """A job of `POST /api/process`: the fields of every job, and those of the first PixTools."""

    job_id: str
    status: ProcessStatus
    result_urls: dict[str, str] = Field(description="the download URL of each finished picture, by its operation")
    archive_url: str | None = Field(description="a path of this service that downloads all files; null before the end")
    metadata: dict[str, Any] | None = Field(
        description="the fields of ProcessMetadata whose values the file has; null without a result of `metadata`",
        json_schema_extra={"anyOf": [ProcessMetadata.model_json_schema(), {"type": "null"}]},
    )
    error_message: str | None = Field(description="one line about the first step that failed")


def answer_of(
    view: JobView, blobs: BlobStore, signed_at: datetime, *, webhook_failed: bool = False
) -> JobAnswer:  # fmt: skip
    """Return the body for one job, with all fields that its client expects. This signs URLs, so call it in a thread.

    `webhook_failed` says that the service has given up the webhook of the job.
    """
    answer = job_answer(view, blobs, signed_at)
    return _process_answer(view, answer, webhook_failed=webhook_failed) if view.job.is_process else answer


def _process_answer(view: JobView, answer: JobAnswer, *, webhook_failed: bool) -> ProcessJobAnswer:
    has_archive = answer.state in JOB_ENDED and any(step.artifact for step in answer.steps.values())
    return ProcessJobAnswer(
        **dict(answer),
        job_id=str(answer.id),
        status=process_status(_state_before_expiry(answer), webhook_failed=webhook_failed),
        result_urls={
            name: step.artifact.url
            for name, step in answer.steps.items()
            if step.artifact is not None and is_result(name, step.op)
        },
        archive_url=f"/api/jobs/{answer.id}/archive" if has_archive else None,
        metadata=_metadata(view),
        error_message=_error_message(answer),
    )


def _state_before_expiry(answer: JobAnswer) -> JobState:
    """Return the state of a job. For an expired job, return its state before that, which follows from its steps."""
    if answer.state != JobState.EXPIRED:
        return answer.state
    return job_state_after([step.state for step in answer.steps.values()], results=0)


def _metadata(view: JobView) -> dict[str, Any] | None:
    for step in view.steps:
        artifact = view.artifacts.get(step.name)
        if step.op == "metadata" and artifact is not None and artifact.result is not None:
            return _flat(artifact.result).model_dump(exclude_none=True)
    return None


def _flat(result: dict[str, Any]) -> ProcessMetadata:
    """Return the fields of the first PixTools from the result of a `metadata` step."""
    exif, exposure, gps = (result.get(name) or {} for name in ("exif", "exposure", "gps"))
    aperture, iso = exposure.get("f_number"), exposure.get("iso")
    return ProcessMetadata(
        camera_make=_text(exif.get("make")),
        camera_model=_text(exif.get("model")),
        lens_model=_text(exif.get("lens_model")),
        captured_at=_text(exif.get("date_time_original")),
        exposure_time=_exposure_time(exposure.get("time_s")),
        aperture=None if aperture is None else f"f/{round(aperture, 2):g}",
        iso=None if iso is None else round(iso),
        gps=Place(latitude=gps["latitude"], longitude=gps["longitude"]) if gps else None,
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None  # a file may have a number in place of a text


def _exposure_time(seconds: float | None) -> str | None:
    """Return seconds as photographers write them."""
    if seconds is None:
        return None
    parts = round(1 / seconds)
    return f"1/{parts}s" if parts > 1 else f"{seconds:g}s"


def _error_message(answer: JobAnswer) -> str | None:
    for name, step in answer.steps.items():
        if step.state == StepState.FAILED and step.error is not None:
            return " ".join(f"{name}: {step.error.detail}".split())
    return None
