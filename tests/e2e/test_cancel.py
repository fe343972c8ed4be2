"""A cancelled job stops at once, even while a codec runs C code. No other job is disturbed."""

from __future__ import annotations

import json
import threading
import time

import httpx
from api import Api
from sideways import sideways_photo

# SLOW keeps one core busy for minutes. QUICK takes a moment.
SLOW = {"slow": {"op": "avif", "input": "source", "speed": 0}}
QUICK = {"quick": {"op": "webp", "input": "source", "resize": {"width": 100}}}


def running(api: Api, seed: int) -> dict:
    """Submit a slow job, wait until its step runs, and return the job."""
    job = api.submit("minutes.jpg", sideways_photo(3000, 2000, seed=seed), SLOW)
    deadline = time.monotonic() + 60
    while api.read(job)["steps"]["slow"]["state"] != "running":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return job


def test_a_running_step_is_stopped_and_its_converter_is_replaced(api):
    converters = api.http.get("/api/health").json()["dispatchers"][0]["converters"]
    jobs = [running(api, 1000 + at) for at in range(converters)]

    for job in jobs:
        answer = api.http.post(f"/api/jobs/{job['id']}/cancel")
        assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
        assert answer.json()["steps"]["slow"]["state"] == "cancelled"

    # Every converter was busy. If no converter had been replaced, this job would wait for minutes.
    other = api.wait(api.submit("q.jpg", sideways_photo(300, 200, seed=903), QUICK), timeout=60)
    assert other["state"] == "succeeded"
    for job in jobs:
        assert api.read(job)["state"] == "cancelled"


def test_a_queued_job_is_cancelled_before_it_begins(api):
    busy = [running(api, seed) for seed in (911, 912)]
    queued = [api.submit(f"{seed}.jpg", sideways_photo(300, 200, seed=seed), SLOW) for seed in range(920, 930)]
    waiting = [job for job in queued if api.read(job)["state"] == "queued"]
    for job in waiting:
        api.http.post(f"/api/jobs/{job['id']}/cancel").raise_for_status()
    for job in [*busy, *queued]:  # some jobs are cancelled a second time, and the answer is the same
        assert api.http.post(f"/api/jobs/{job['id']}/cancel").json()["state"] == "cancelled"
    assert waiting
    for job in waiting:
        assert {step["attempt"] for step in api.read(job)["steps"].values()} == {0}


def test_results_of_a_cancelled_job_stay(api):
    steps = {"exif": {"op": "metadata", "input": "source"}, **SLOW}
    job = api.submit("minutes.jpg", sideways_photo(3000, 2000, seed=931), steps)
    deadline = time.monotonic() + 60
    while (now := api.read(job))["steps"]["exif"]["state"] != "succeeded":
        assert time.monotonic() < deadline, now
        time.sleep(0.05)

    api.http.post(f"/api/jobs/{job['id']}/cancel").raise_for_status()

    job = api.read(job)
    assert (job["state"], job["steps"]["slow"]["state"]) == ("cancelled", "cancelled")
    assert json.loads(api.download(job, "exif"))["camera"] == "PixTools Test Camera"


def test_a_follower_of_a_cancelled_job_sees_its_end(api):
    job, seen = running(api, 941), []

    def follow() -> None:
        with httpx.stream("GET", f"{api.http.base_url}/api/jobs/{job['id']}/events", timeout=60) as stream:
            seen.extend(json.loads(line[6:])["state"] for line in stream.iter_lines() if line.startswith("data: "))

    follower = threading.Thread(target=follow)
    follower.start()
    time.sleep(0.5)
    api.http.post(f"/api/jobs/{job['id']}/cancel").raise_for_status()
    follower.join(30)
    assert seen[-1] == "cancelled"


def test_a_job_that_has_ended_cannot_be_cancelled(api):
    job = api.wait(api.submit("q.jpg", sideways_photo(300, 200, seed=951), QUICK))
    answer = api.http.post(f"/api/jobs/{job['id']}/cancel")
    assert (answer.status_code, answer.json()["code"]) == (409, "job_ended")
    assert api.read(job)["state"] == "succeeded"


def test_a_job_that_does_not_exist_cannot_be_cancelled(api):
    answer = api.http.post("/api/jobs/0199aaaa-0000-7000-8000-000000000000/cancel")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
