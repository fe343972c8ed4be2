"""Each process of the service is killed while ten jobs run. The service answers again, and no job is harmed."""

from __future__ import annotations

import time
from collections.abc import Callable

import httpx
import psutil
import pytest
from audit import Audit
from process_titles import title_of
from stacks import running
from workload import Workload, one_avif

pytestmark = pytest.mark.slow

Finder = Callable[[psutil.Process], bool]


def titled(beginning: str) -> Finder:
    return lambda process: title_of(process).startswith(beginning)


def named(name: str) -> Finder:
    """Return a function that finds a program, and not the processes that it has forked."""
    return lambda process: process.name().startswith(name) and not process.parent().name().startswith(name)


VICTIMS = {
    "dashboard agent": titled("ray::DashboardAgent"),
    "runtime-env agent": titled("ray::RuntimeEnvAgent"),
    "raylet": named("raylet"),
    "GCS": named("gcs_server"),
    "ray start": lambda process: "start --head" in title_of(process),
    "Serve controller": titled("ray::ServeController"),
    "proxy": titled("ray::HAProxyManager"),
    "HAProxy": named("haproxy"),
    "Postgres": named("postgres"),
    "Valkey": named("valkey-server"),
    "S3 server": named("rclone"),
}


@pytest.fixture(scope="module")
def kept(open_folder):
    with running(open_folder / "kept") as stack:
        yield stack


@pytest.fixture(scope="module")
def audit(kept):
    with Audit(kept.env["PIXTOOLS_DATABASE_URL"]) as audit:
        yield audit


def find(stack, is_victim: Finder) -> list[psutil.Process]:
    found = []
    for process in psutil.Process(stack.process.pid).children(recursive=True):
        try:
            if process.status() != psutil.STATUS_ZOMBIE and is_victim(process):
                found.append(process)
        except psutil.Error:
            continue
    return found


def is_ready(stack) -> bool:
    try:
        return httpx.get(f"{stack.base_url}/api/readyz", timeout=5).is_success
    except httpx.TransportError:
        return False


def recovery_s(stack, is_victim: Finder, dead: set[psutil.Process]) -> float:
    """Wait until the killed processes have successors, and the service accepts jobs. Return how long this took."""
    began = time.monotonic()
    while not set(find(stack, is_victim)) - dead or not is_ready(stack):
        assert stack.process.poll() is None, stack.output
        assert time.monotonic() - began < 60, stack.output
        time.sleep(0.3)
    return time.monotonic() - began


@pytest.mark.parametrize("name", VICTIMS)
def test_the_service_survives_the_death_of_any_of_its_processes(kept, audit, name):
    said = len(kept.output)
    with Workload(kept, audit, jobs=10, clients=5, steps=one_avif(3)) as work:
        work.join()
        work.wait_until(("running",), 2)
        victims = find(kept, VICTIMS[name])
        assert len(victims) == 1
        victims[0].kill()
        took_s = recovery_s(kept, VICTIMS[name], set(victims))
        report = work.finish(f"{name} killed, back after {took_s:.1f} s")
    assert report.clean
    assert report.ok == 10
    print(kept.output[said:])


def test_a_server_that_cannot_run_any_more_ends_the_service_with_an_error(open_folder):
    with running(open_folder / "hopeless") as stack:
        for _ in range(6):
            (victim,) = find(stack, VICTIMS["Valkey"])
            victim.kill()
            deadline = time.monotonic() + 60
            while stack.process.poll() is None and not set(find(stack, VICTIMS["Valkey"])) - {victim}:
                assert time.monotonic() < deadline, stack.output
                time.sleep(0.1)
        assert stack.process.wait(60) == 1
        assert "redis ended by itself (code -9)" in stack.output
        assert "This has happened 6 times within 10 minutes" in stack.output
        stack.wait_until_gone()
