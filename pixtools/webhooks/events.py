"""The events of webhooks, and the bodies that tell receivers about them.

A body follows Standard Webhooks (https://www.standardwebhooks.com): the type of the event, its time, and its data. The
data are written when the event happens, so every attempt sends the same data. A body without download URLs is smaller
than 20 kB.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from pixtools.jobs.records import StepRecord
from pixtools.states import JobState

MAX_DATA_BYTES = 18_000
"""The largest size of the data of an event as JSON. Without download URLs, the rest of a body is smaller than 2 kB."""

_MAX_DETAIL = 200  # characters of the detail of an error


class Event(StrEnum):
    """The type of an event."""

    JOB_SUCCEEDED = "job.succeeded"
    JOB_PARTIAL = "job.partial"
    JOB_FAILED = "job.failed"
    JOB_CANCELLED = "job.cancelled"
    DEAD_LETTER_CREATED = "dead_letter.created"
    TEST = "webhook.test"

    @property
    def job_state(self) -> JobState:
        """The final state of the job. Raises KeyError if this event is not the end of a job."""
        return _JOB_STATES[self]


JOB_EVENTS = {
    JobState.SUCCEEDED: Event.JOB_SUCCEEDED,
    JobState.PARTIAL: Event.JOB_PARTIAL,
    JobState.FAILED: Event.JOB_FAILED,
    JobState.CANCELLED: Event.JOB_CANCELLED,
}
"""The event of each final state of a job."""

_JOB_STATES = {event: state for state, event in JOB_EVENTS.items()}

CHOSEN_EVENTS = (*JOB_EVENTS.values(), Event.DEAD_LETTER_CREATED)
"""The events that an endpoint can choose. Every endpoint can get a test."""


def job_data(job_id: uuid.UUID, state: JobState, steps: Iterable[StepRecord]) -> dict[str, Any]:
    """Return the data of the end of a job: its id, its state, and the state and the error of each step.

    If the steps take more than `MAX_DATA_BYTES`, the details of their errors are left out. If this is not enough, the
    data have only the number of steps in each state, in `step_states`.
    """
    steps = list(steps)
    about = {"job_id": str(job_id), "state": state.value}
    for with_details in (True, False):
        data = about | {"steps": {step.name: _step(step, with_details=with_details) for step in steps}}
        if _size(data) <= MAX_DATA_BYTES:
            return data
    counts: dict[str, int] = {}
    for step in steps:
        counts[step.state.value] = counts.get(step.state.value, 0) + 1
    return about | {"step_states": counts}


def dead_letter_data(letter_id: uuid.UUID, job_id: uuid.UUID, step: str, error: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data of a new dead letter of a step. `error` is the problem (RFC 9457) of the step."""
    return {"dead_letter_id": str(letter_id), "job_id": str(job_id), "step": step, "error": _error(error)}


def body(event: Event, at: datetime, data: Mapping[str, Any]) -> bytes:
    """Return the body of a webhook as JSON."""
    time = at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return _json({"type": event.value, "timestamp": time, "data": data})


def process_body(job_id: uuid.UUID, status: str, result_urls: Mapping[str, str]) -> bytes:
    """Return the body for a job of `POST /api/process`. The first PixTools sent this body, so its clients expect it."""
    return _json({"job_id": str(job_id), "status": status, "result_urls": result_urls})


def _step(step: StepRecord, *, with_details: bool) -> dict[str, Any]:
    error = None if step.error is None else _error(step.error)
    if error is not None and not with_details:
        del error["detail"]
    return {"op": step.op, "state": step.state.value, "error": error}


def _error(problem: Mapping[str, Any]) -> dict[str, Any]:
    return {"code": problem["code"], "detail": str(problem.get("detail", ""))[:_MAX_DETAIL]}


def _size(data: Mapping[str, Any]) -> int:
    return len(_json(data))


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
