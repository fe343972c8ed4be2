"""A service whose queue is full refuses jobs, runs on, and accepts jobs again when it has room."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from api import Api
from service import Stack
from sideways import sideways_photo

# The step keeps a converter busy for minutes, so the deadline of the job stops it.
SLOW = {"slow": {"op": "avif", "input": "source", "speed": 0}, "other": {"op": "avif", "input": "source", "speed": 1}}
QUICK = {"quick": {"op": "webp", "input": "source", "resize": {"width": 100}}}


@pytest.fixture
def small(new_stack: Callable[..., Stack]) -> Iterator[Stack]:
    """A service with one converter and a short queue, whose jobs may run for 5 seconds."""
    stack = new_stack(
        extra_env={
            "PIXTOOLS_MIN_CONVERTERS": "1",
            "PIXTOOLS_MAX_CONVERTERS": "1",
            "PIXTOOLS_MAX_QUEUED_JOBS": "2",
            "PIXTOOLS_JOB_DEADLINE": "5",
        }
    )
    stack.launch()
    stack.wait_until_ready()
    yield stack
    stack.stop()


def submit(api: Api, seed: int) -> httpx.Response:
    return api.post(f"{seed}.jpg", sideways_photo(3000, 2000, seed=seed), steps=json.dumps(SLOW))


def test_a_full_service_refuses_jobs_and_recovers(small: Stack) -> None:
    with Api(small.base_url) as api:
        # The dispatcher takes two jobs, and two jobs are queued. On a busy machine, both may leave the queue before the
        # health is read. Then fill the queue again.
        accepted, queued = [], 0
        for seed in range(4000, 4020):
            answer = submit(api, seed)
            if answer.status_code == 202:
                accepted.append(answer)
                continue
            assert (answer.status_code, answer.json()["code"]) == (503, "service_full")
            assert "PIXTOOLS_MAX_QUEUED_JOBS" in answer.json()["detail"]
            assert int(answer.headers["Retry-After"]) > 0
            assert api.http.get("/api/readyz").status_code == 200
            health = api.http.get("/api/health").json()
            if queued := health["queued_megapixels"]:
                break
        assert queued in (18, 36)  # each job has 18 megapixels: the source and two pictures
        assert health["free_bytes"] > 0

        first = api.wait(accepted[0].json())
        assert first["state"] == "failed"
        for step in first["steps"].values():
            assert (step["state"], step["error"]["code"]) == ("failed", "job_timed_out")
            assert "PIXTOOLS_JOB_DEADLINE" in step["error"]["detail"]

        deadline = time.monotonic() + 60
        while (
            again := api.post("q.jpg", sideways_photo(300, 200, seed=1), steps=json.dumps(QUICK))
        ).status_code != 202:
            assert (again.json()["code"], time.monotonic() < deadline) == ("service_full", True)
            time.sleep(0.5)
        assert api.wait(again.json())["state"] == "succeeded"

    folders = [Path(folder) for folder in small.env["PIXTOOLS_STORE_FOLDERS"].split(":")]
    assert {folder.name for folder in folders} == {"postgres", "redis", "s3"}
    assert all(folder.is_dir() for folder in folders)
