"""The service gets other settings while jobs run. The old dispatcher finishes its jobs or returns them, and ends."""

from __future__ import annotations

import time

import psycopg
import pytest
import yaml
from api import Api
from stacks import running
from victims import DISPATCHER, find
from workload import one_avif, photo

from pixtools.local import deployment
from pixtools.local.cluster import Cluster
from serve.cli import _CONFIG as SERVE_CONFIG

pytestmark = pytest.mark.slow

QUICK = {"web": {"op": "webp", "input": "source", "resize": {"width": 64}}}


def redeploy(stack, **env: str) -> None:
    """Deploy the application again with these environment variables."""
    config = yaml.safe_load(SERVE_CONFIG.read_text())
    config = deployment.listening_on(config, "127.0.0.1", stack.port)
    Cluster(stack.dashboard_url, stack.token).deploy(deployment.with_environment(config, env))


def wait_until_running(api: Api, job: dict) -> None:
    """Wait until a step of the job runs."""
    deadline = time.monotonic() + 60
    while "running" not in {step["state"] for step in api.read(job)["steps"].values()}:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def wait_for_another_dispatcher(stack, old: int) -> None:
    """Wait until the dispatcher with the pid `old` has ended and a new one runs."""
    deadline = time.monotonic() + 120
    while len(found := find(stack, DISPATCHER)) != 1 or found[0].pid == old:
        assert time.monotonic() < deadline, found
        time.sleep(0.2)


def test_running_jobs_are_finished_or_returned_to_the_queue_and_no_crash_is_counted(open_folder):
    # The long steps must not miss their deadline on a machine that runs other work too.
    with running(open_folder / "redeploy", PIXTOOLS_STEP_DEADLINE="PT10M") as stack, Api(stack.base_url) as api:
        (old,) = find(stack, DISPATCHER)
        short = api.submit("short.jpg", photo(3000, 2000), one_avif(5))
        wait_until_running(api, short)
        redeploy(stack, PIXTOOLS_POLL_INTERVAL="2", PIXTOOLS_DRAIN_TIMEOUT="60")
        wait_for_another_dispatcher(stack, old.pid)
        finished = api.wait(short)
        assert (finished["state"], finished["steps"]["only"]["attempt"]) == ("succeeded", 1)

        (old,) = find(stack, DISPATCHER)
        long = api.submit("long.jpg", photo(3000, 2200), one_avif(1))
        wait_until_running(api, long)
        redeploy(stack, PIXTOOLS_POLL_INTERVAL="1", PIXTOOLS_DRAIN_TIMEOUT="3")
        wait_for_another_dispatcher(stack, old.pid)
        assert api.wait(api.submit("quick.jpg", photo(320, 240), QUICK))["state"] == "succeeded"
        returned = api.wait(long, timeout=540)
        assert (returned["state"], returned["steps"]["only"]["attempt"]) == ("succeeded", 2), returned
        # The last deployment below uses settings whose old dispatcher is still draining. New jobs must run meanwhile.
        slow = api.submit("slow.jpg", photo(3000, 2400), one_avif(1))
        wait_until_running(api, slow)
        redeploy(stack, PIXTOOLS_POLL_INTERVAL="2", PIXTOOLS_DRAIN_TIMEOUT="120")
        while len(find(stack, DISPATCHER)) < 2:
            time.sleep(0.1)
        redeploy(stack, PIXTOOLS_POLL_INTERVAL="1", PIXTOOLS_DRAIN_TIMEOUT="3")
        while len(find(stack, DISPATCHER)) < 2 or api.http.get("/api/health").json()["dispatchers"] in ([], [None]):
            time.sleep(0.1)
        assert api.wait(api.submit("back.jpg", photo(320, 240), QUICK))["state"] == "succeeded"
        api.http.post(f"/api/jobs/{slow['id']}/cancel").raise_for_status()
        last = api.submit("last.jpg", photo(330, 240), QUICK)
        time.sleep(5)  # meanwhile the draining dispatcher ends, because it has no jobs left
        assert api.wait(last)["state"] == "succeeded"
        assert api.wait(api.submit("after.jpg", photo(340, 240), QUICK))["state"] == "succeeded"

        with psycopg.connect(stack.env["PIXTOOLS_DATABASE_URL"]) as database:
            assert database.execute("SELECT DISTINCT crashes FROM job").fetchall() == [(0,)]
        print(f"\nfinished_in_attempt=1 returned_in_attempt={returned['steps']['only']['attempt']}")
