"""A job together with its steps, parts and artifacts, as readers and dispatchers see the job."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import timedelta

from pixtools.jobs.records import ArtifactRecord, JobRecord, PartRecord, StepRecord
from pixtools.jobs.submission import NewJob
from pixtools.states import JobState, StepState


@dataclass(frozen=True)
class JobView:
    """A job with its steps in running order, their artifacts by step name, and its parts sorted by name."""

    job: JobRecord
    steps: tuple[StepRecord, ...]
    artifacts: dict[str, ArtifactRecord]
    parts: tuple[PartRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class StepSummary:
    """A step as a list of jobs shows it."""

    name: str
    op: str
    state: StepState


@dataclass(frozen=True)
class JobSummary:
    """A job in a list of jobs: with its steps in running order, but without parameters, parts and artifacts."""

    job: JobRecord
    steps: tuple[StepSummary, ...]


@dataclass(frozen=True, slots=True)
class JobStatus:
    """The version and the state of a job. The version grows with each visible change."""

    version: int
    state: JobState


@dataclass(frozen=True, slots=True)
class QueueLoad:
    """The number of queued jobs, and the pixels of their work. Counting may stop at a limit."""

    jobs: int
    pixels: int


@dataclass(frozen=True)
class Claim:
    """A job that a dispatcher holds under a lease.

    `reusable` holds existing artifacts, by step key. An unfinished step that finds its artifact here need not run.
    """

    view: JobView
    reusable: dict[str, ArtifactRecord]

    @property
    def id(self) -> uuid.UUID:
        """The id of the job."""
        return self.view.job.id

    @property
    def attempt(self) -> int:
        """The attempt that this claim began. Results are recorded only while this attempt is current."""
        return self.view.job.attempt

    @property
    def ids(self) -> dict[str, str]:
        """The ids for log lines about this attempt."""
        job = self.view.job
        ids = {"job_id": str(job.id), "attempt": str(job.attempt), "owner": job.owner}
        return ids | ({"request_id": job.request_id} if job.request_id else {})


def view_of(new: NewJob, retention: timedelta) -> JobView:
    """Return the view of a new job: the job is queued, and all steps are waiting.

    `retention` is how long the service keeps a job. Raises ValueError if `new.created_at` is None.
    """
    if new.created_at is None:
        raise ValueError("a job without a time of creation has no view")
    job = JobRecord(
        id=new.id,
        owner=new.owner,
        batch=None,
        state=JobState.QUEUED,
        version=1,
        attempt=0,
        created_at=new.created_at,
        finished_at=None,
        expires_at=new.created_at + retention,
        source_key=new.source_key,
        source_name=new.source_name,
        source_media_type=new.source_media_type,
        source_width=new.source_width,
        source_height=new.source_height,
        source_frames=new.source_frames,
        source_bytes=new.source_bytes,
        source_sha256=new.source_sha256,
        webhook_url=new.webhook_url,
        is_process=new.is_process,
        request_id=new.request_id,
        traceparent=new.traceparent,
    )
    steps = tuple(
        StepRecord(
            name=step.name,
            op=step.op,
            inputs=step.inputs,
            params=step.params,
            key=step.key,
            state=StepState.WAITING,
            attempt=0,
            failures=0,
            crashes=0,
            error=None,
            artifact_id=None,
            started_at=None,
            run_ms=None,
        )
        for step in new.steps
    )
    return JobView(job, steps, {}, tuple(sorted(new.parts, key=lambda part: part.name)))
