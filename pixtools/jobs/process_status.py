"""The status of a job of `POST /api/process`, in the words of the first PixTools."""

from __future__ import annotations

from enum import StrEnum

from pixtools.states import JobState


class ProcessStatus(StrEnum):
    """The values of `status` that clients of the first PixTools expect."""

    PENDING = "PENDING"
    PROCESSING = "PROCESSING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    COMPLETED_WEBHOOK_FAILED = "COMPLETED_WEBHOOK_FAILED"


_STATUSES = {
    JobState.QUEUED: ProcessStatus.PENDING,
    JobState.RUNNING: ProcessStatus.PROCESSING,
    JobState.SUCCEEDED: ProcessStatus.COMPLETED,
    # In the first PixTools, one operation that failed made the whole job fail.
    JobState.PARTIAL: ProcessStatus.FAILED,
    JobState.FAILED: ProcessStatus.FAILED,
    JobState.CANCELLED: ProcessStatus.FAILED,
}


def process_status(state: JobState, *, webhook_failed: bool) -> ProcessStatus:
    """Return the status of a job in `state`. `webhook_failed`: the service has given up its webhook.

    Raises KeyError if the job has expired. Then its final state counts.
    """
    status = _STATUSES[state]
    if webhook_failed and status == ProcessStatus.COMPLETED:
        return ProcessStatus.COMPLETED_WEBHOOK_FAILED
    return status
