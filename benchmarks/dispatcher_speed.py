"""Measures dispatchers alone: CPU milliseconds per job, and jobs per second, for one and for two dispatchers.

    python benchmarks/dispatcher_speed.py

The jobs have one step, and their converters only report success. The stores are real, and so is Ray, but there is no
HTTP. The queue is full before a dispatcher starts. The first tenth and the last tenth of the jobs do not count,
because the dispatchers start and end in this time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil

# Ray reads these variables when it is imported. With the first one, it listens only on loopback.
os.environ |= {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
}

import cpu
import ray
from figures import Figures
from store_jobs import new_job, running_stores

from actors import fleet
from actors.converter_pool import Node
from actors.placement import NAMESPACE
from dag.messages import WorkItem
from pixtools.database.connection import Database
from pixtools.database.job_store import JobStore
from pixtools.jobs.outcomes import Started, Stored, Succeeded
from pixtools.local import ray_head
from pixtools.local.home import Home
from pixtools.local.local_settings import LocalSettings
from pixtools.local.ports import free_port
from pixtools.settings import Settings
from pixtools.states import JobState

_CONVERTERS = 4  # of each dispatcher
_TIMEOUT_S = 60
_WORDS = {1: "one", 2: "two"}


class StubConverter:
    """A converter whose steps do nothing. It has the methods that a dispatcher calls."""

    def ready(self) -> Node:
        return Node("node", 1 << 50)

    def run_all(self, work_items: list[WorkItem]) -> list[list[Any]]:
        return [list(self.run(work_item)) for work_item in work_items]

    def run(self, work_item: WorkItem, *_: Any) -> Iterator[Any]:
        yield Started(work_item.segment.steps[0].name)
        for step in work_item.segment.steps:
            yield Succeeded(step.name, Stored(step.key, f"benchmark/{step.key}", "image/webp", 9, "cd" * 32, 64, 48), 1)


class BenchDispatcherActor(fleet.DispatcherActor):
    """The dispatcher of the service. Only its converters are replaced."""

    def __init__(self, settings: Settings) -> None:
        fleet.create_converter = _stub_converter  # type: ignore[assignment]  # the constructor reads this name
        super().__init__(settings)


def _stub_converter(_: Settings) -> Any:
    return ray.remote(StubConverter).options(num_cpus=0, max_restarts=0).remote()


def main() -> None:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=600)
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers are stopped
    figures: Figures = {"errors": 0}
    with running() as settings:
        for dispatchers, word in _WORDS.items():
            found = measure(settings, options.jobs, dispatchers)
            figures |= {f"{word}_{name}": value for name, value in found.items()}
    if options.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:40} {value:10.2f}")


@contextlib.contextmanager
def running() -> Iterator[Settings]:
    """Run stores and a Ray head, and connect to them. Yields the settings."""
    with running_stores() as (folder, settings):
        home = Home(folder.parent / "head")
        home.secret_path("ray-token").write_text(os.environ["RAY_AUTH_TOKEN"])
        # The actors import this module to find the classes.
        paths = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])}
        local = LocalSettings(dashboard_port=free_port(), ray_client_port=free_port(), proxy="ray")
        head = ray_head.start(home, local, {**os.environ, **paths})
        try:
            head.wait()
            address = ray_head.folder(home) / "ray_current_cluster"
            while not address.exists():  # Ray writes this file when all its processes run
                time.sleep(0.1)
            ray.init(address.read_text(), namespace=NAMESPACE, log_to_driver=False)
            yield settings
            ray.shutdown()  # a process that is connected to Ray aborts if its cluster ends
        finally:
            head.stop()
            ray_head.remove_folder(home)


def measure(settings: Settings, jobs: int, dispatchers: int) -> Figures:
    """Run `jobs` jobs with this number of dispatchers."""
    database = Database(settings)
    store = JobStore(database, settings)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: store.submit(new_job()), range(jobs)))
    limited = settings.model_copy(update={"max_converters": _CONVERTERS})
    actors = [ray.remote(BenchDispatcherActor).options(num_cpus=0).remote(limited) for _ in range(dispatchers)]
    root = psutil.Process()
    try:
        began = _wait_until_left(store, jobs * 9 // 10)
        before = cpu.sample(root)
        ended = _wait_until_left(store, jobs // 10)
        spent = cpu.spent(before, cpu.sample(root))
    finally:
        for actor in actors:
            ray.kill(actor)
        database.close()
    done = began[1] - ended[1]
    total = sum(seconds for label, seconds in spent.items())
    return {
        "cpu_ms_per_job": 1000 * spent["dispatcher"] / done,
        "postgres_cpu_ms_per_job": 1000 * spent["Postgres"] / done,
        "all_cpu_ms_per_job": 1000 * total / done,
        "jobs_per_s": done / (ended[0] - began[0]),
    }


def _wait_until_left(store: JobStore, most: int) -> tuple[float, int]:
    """Wait until at most `most` jobs have not ended. Return the time in seconds, and how many jobs these are."""
    deadline = time.monotonic() + _TIMEOUT_S
    while time.monotonic() < deadline:
        backlog = store.backlog()
        left = backlog[JobState.QUEUED] + backlog[JobState.RUNNING]
        if left <= most:
            return time.monotonic(), left
        time.sleep(0.05)
    raise SystemExit(f"the dispatchers left {left} jobs after {_TIMEOUT_S} s")


if __name__ == "__main__":
    main()
