"""What is measured: the outcomes of steps, the requests, and the state of the service."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from fake_stores import job_record, step_record
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

from actors import job_metrics
from actors.job_metrics import JobMetrics
from pixtools.errors import CorruptImage
from pixtools.jobs.outcomes import Cached, Crashed, Failed, Started, Stored, Succeeded
from pixtools.jobs.views import Claim, JobView
from pixtools.states import JobState
from serve import request_metrics
from serve.health import HealthAnswer, Readiness
from serve.metrics import exposition
from serve.request_metrics import RequestMetrics


class Recorded:
    """Stands for the counters and histograms of Ray, whose values nobody can read in the same process."""

    values: list[tuple[str, tuple[str, ...], float]]

    def __init__(self, name: str, _: str = "", tag_keys: tuple[str, ...] = (), **__: object) -> None:
        self.name, self.keys = name.removeprefix("pixtools_"), tag_keys

    def inc(self, value: float, tags: dict[str, Any]) -> None:
        assert set(tags) == set(self.keys)
        self.values.append((self.name, tuple(str(tags[key]) for key in self.keys), value))

    observe = inc


@pytest.fixture
def values(monkeypatch) -> list[tuple[str, tuple[str, ...], float]]:
    Recorded.values = []
    for module in (job_metrics, request_metrics):
        for name in ("Counter", "Histogram"):
            monkeypatch.setattr(module, name, Recorded, raising=False)
    return Recorded.values


def claim(attempt: int = 1, age_s: float = 10) -> Claim:
    job = job_record(created_at=datetime.now(UTC) - timedelta(seconds=age_s), attempt=attempt)
    return Claim(JobView(job, (step_record("a"), step_record("b", op="webp")), {}, ()), {})


def test_a_successful_step_is_counted_with_its_times_and_its_bytes(values):
    stored = Stored("key", "blob", "image/png", 900, "ab" * 32)
    JobMetrics().recorded(claim(), [Started("a", 2.0), Succeeded("a", stored, 1500)], JobState.SUCCEEDED)

    assert values == [
        ("step_wait_seconds", ("png",), pytest.approx(8, abs=1)),
        ("step_run_seconds", ("png",), 1.5),
        ("step_end_to_end_seconds", ("png",), pytest.approx(10, abs=1)),
        ("artifact_bytes_total", ("png",), 900),
        ("steps_total", ("png", "succeeded"), 1),
        ("jobs_ended_total", ("succeeded",), 1),
    ]


@pytest.mark.parametrize(
    ("outcome", "result"),
    [
        (Cached("b", uuid.uuid4()), "cached"),
        (Cached("b", None), "unneeded"),
        (Crashed("b"), "crashed"),
        (Succeeded("b", None, 5), "succeeded"),
    ],
)
def test_each_outcome_has_its_own_result(values, outcome, result):
    JobMetrics().recorded(claim(), [outcome], None)

    assert values[-1] == ("steps_total", ("webp", result), 1)


def test_a_failure_is_counted_by_its_code_and_a_job_that_returns_to_the_queue_is_no_end(values):
    JobMetrics().recorded(claim(), [Failed("a", CorruptImage("x"))], JobState.QUEUED)

    assert values == [
        ("step_failures_total", ("corrupt_image",), 1),
        ("steps_total", ("png", "failed"), 1),
        ("jobs_ended_total", ("retried",), 1),
    ]


def test_only_the_first_attempt_counts_as_wait(values):
    JobMetrics().recorded(claim(attempt=2), [Started("a")], None)

    assert values == []


def test_a_clock_that_is_behind_gives_no_negative_times(values):
    JobMetrics().recorded(claim(age_s=-5), [Started("a"), Succeeded("a", None, 5)], None)

    assert all(value >= 0 for _, _, value in values)


async def get(app: FastAPI, paths: Iterable[str]) -> None:
    transport = httpx.ASGITransport(RequestMetrics(app), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
        for path in paths:
            await http.get(path)


@pytest.mark.anyio
async def test_requests_are_measured_by_route_and_not_by_path(values):
    app = FastAPI()

    @app.get("/api/jobs/{job_id}")
    def read(job_id: str) -> str:
        return job_id

    await get(app, ["/api/jobs/1", "/api/jobs/2", "/nothing/3", "/nothing/4"])

    assert [tags for _, tags, _ in values] == [
        ("/api/jobs/{job_id}", "GET", "200"),
        ("/api/jobs/{job_id}", "GET", "200"),
        ("other", "GET", "404"),
        ("other", "GET", "404"),
    ]
    assert all(0 <= seconds < 60 for _, _, seconds in values)


@pytest.mark.anyio
async def test_an_error_of_the_application_is_measured(values):
    app = FastAPI()

    @app.get("/broken")
    def broken() -> None:
        raise RuntimeError

    await get(app, ["/broken"])

    assert [tags for _, tags, _ in values] == [("/broken", "GET", "500")]


def health(**changes: Any) -> HealthAnswer:
    dispatcher = {
        "jobs": 3, "denoising": 1, "converters": 4, "idle_converters": 1, "running_converters": 3,
        "taken_bytes": 5, "memory_bytes": 9, "retiring": False,
    }  # fmt: skip
    values = {
        "version": "1.2.3", "parts": Readiness(database="up", storage="up", redis="down"),
        "backlog": {"queued": 7, "running": 3}, "queued_megapixels": 12.5, "oldest_queued_s": 4.0, "free_bytes": 10**12,
        "dispatchers": [dispatcher, None], "couriers": [{"sending": 0, "retiring": False}],
    }  # fmt: skip
    return HealthAnswer(**values | changes)


def samples(answer: HealthAnswer) -> dict[str, float]:
    families = text_string_to_metric_families(exposition(answer).decode())
    return {
        " ".join([sample.name.removeprefix("pixtools_"), *sample.labels.values()]): sample.value
        for family in families
        for sample in family.samples
    }


def test_the_state_of_the_service_has_all_numbers():
    assert samples(health()) == {
        "build_info 1.2.3": 1,
        "component_up database": 1, "component_up storage": 1, "component_up redis": 0,
        "jobs queued": 7, "jobs running": 3, "queued_megapixels": 12.5, "oldest_queued_seconds": 4,
        "free_bytes": 10**12,
        "dispatchers up": 1, "dispatchers silent": 1, "couriers up": 1, "couriers silent": 0,
        "converters starting": 1, "converters idle": 1, "converters busy": 2,
        "converter_memory_bytes taken": 5, "converter_memory_bytes budget": 9,
        "claimed_jobs": 3, "denoising_jobs": 1,
    }  # fmt: skip


def test_what_is_not_known_has_no_series():
    found = samples(health(backlog=None, queued_megapixels=None, oldest_queued_s=None, free_bytes=None))

    missing = samples(health()).keys() - found.keys()
    assert missing == {"jobs queued", "jobs running", "queued_megapixels", "oldest_queued_seconds", "free_bytes"}
