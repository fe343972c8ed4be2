"""The bodies of webhooks."""

from __future__ import annotations

import json
import uuid
from datetime import datetime, timedelta, timezone

import pytest

from pixtools.jobs.process_status import process_status
from pixtools.jobs.records import StepRecord
from pixtools.states import JOB_ENDED, JobState, StepState
from pixtools.webhooks.events import JOB_EVENTS, MAX_DATA_BYTES, Event, body, job_data, process_body

JOB = uuid.UUID(int=7)


def step(name: str, detail: str | None = None) -> StepRecord:
    error = None if detail is None else {"code": "corrupt_image", "detail": detail, "status": 422}
    state = StepState.SUCCEEDED if detail is None else StepState.FAILED
    return StepRecord(name, "png", (), {}, "k", state, 1, 0, 0, error, None, None, None)


def size(data: dict) -> int:
    return len(json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode())


def test_every_end_of_a_job_has_an_event():
    assert JOB_EVENTS.keys() == JOB_ENDED - {JobState.EXPIRED}
    assert {event.job_state: event for event in JOB_EVENTS.values()} == JOB_EVENTS


def test_a_body_names_the_event_its_time_and_its_data():
    at = datetime(2026, 11, 29, 12, 30, 1, 234_567, tzinfo=timezone(timedelta(hours=2)))

    assert json.loads(body(Event.TEST, at, {"a": "ü"})) == {
        "type": "webhook.test",
        "timestamp": "2026-11-29T10:30:01.234Z",
        "data": {"a": "ü"},
    }


def test_the_error_of_a_step_has_a_code_and_a_short_detail():
    data = job_data(JOB, JobState.PARTIAL, [step("a"), step("b", "x" * 1_000)])

    assert data["steps"]["a"] == {"op": "png", "state": "succeeded", "error": None}
    assert data["steps"]["b"]["error"] == {"code": "corrupt_image", "detail": "x" * 200}


@pytest.mark.parametrize(
    ("steps", "keys"),
    [
        ([step(f"{each}", "ü" * 200) for each in range(30)], {"code", "detail"}),
        ([step(f"{each:03}" + "n" * 61, "ü" * 1_000) for each in range(100)], {"code"}),
    ],
)
def test_data_that_are_too_large_lose_their_details(steps, keys):
    data = job_data(JOB, JobState.FAILED, steps)

    assert size(data) <= MAX_DATA_BYTES
    assert all(found.keys() == {"op", "state", "error"} for found in data["steps"].values())
    assert all(found["error"].keys() == keys for found in data["steps"].values())


def test_data_of_thousands_of_steps_have_only_their_numbers():
    steps = [step(f"{each:04}" + "n" * 60, "failed" if each % 3 == 0 else None) for each in range(3_000)]

    assert job_data(JOB, JobState.PARTIAL, steps) == {
        "job_id": str(JOB),
        "state": "partial",
        "step_states": {"failed": 1_000, "succeeded": 2_000},
    }


def test_the_body_of_the_first_pixtools_has_three_fields():
    sent = json.loads(process_body(JOB, "COMPLETED", {"webp": "http://x/y"}))

    assert sent == {"job_id": str(JOB), "status": "COMPLETED", "result_urls": {"webp": "http://x/y"}}


@pytest.mark.parametrize("state", [state for state in JobState if state != JobState.EXPIRED])
def test_a_failed_webhook_shows_only_in_the_status_of_a_job_that_succeeded(state):
    usual = process_status(state, webhook_failed=False)
    failed = process_status(state, webhook_failed=True)

    assert failed == ("COMPLETED_WEBHOOK_FAILED" if usual == "COMPLETED" else usual)
