"""Runs a service for half an hour at 70 % of its load, and looks for leaks and lost jobs.

The jobs are those of the mixes (a), (c) and (d) of `make bench`. Every 30 seconds, the benchmark adds up memory, open
descriptors and connections to Postgres. At the end it prints the medians of each third of the run, and looks for every
accepted job in the database. The totals must not grow from the first third to the last one. A single process may still
fill a cache of limited size, such as the shared buffers of Postgres, but it must not grow in the last two thirds.

    python benchmarks/soak.py --minutes 30
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import time
from dataclasses import dataclass, field
from itertools import cycle
from statistics import median

import cpu
import httpx
import psutil
import psycopg
from load import WAIT, Call, Unexpected, closed_loop, open_loop, submit
from parts import MIXES
from running_service import RunningService, new_home, service

_SHARE = 0.7
_TURN = "aaaaacaaaad"  # the mixes of eleven jobs in a row
_CALIBRATION_S = 30.0
_PAUSE_S = 30.0
_WARM_UP = 0.1  # of the run
_MAX_GROWTH = 1.1  # of the median of the last third, relative to an earlier third
_PART = "pss_mb of "


@dataclass
class Watch:
    """The samples of each figure: pairs of a time in seconds and a value."""

    samples: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def add(self, at: float, **values: float) -> None:
        for name, value in values.items():
            self.samples.setdefault(name, []).append((at, value))

    def thirds(self, name: str) -> tuple[float, float, float]:
        """Return the median of each third after the warm-up."""
        values = [value for _, value in self.samples[name]]
        values = values[round(_WARM_UP * len(values)) :]
        third = max(1, len(values) // 3)
        return median(values[:third]), median(values[third:-third] or values), median(values[-third:])


def mixed_jobs(accepted: list[str]) -> Call:
    """Return a call that runs the next job, and notes its id."""
    supplies = {letter: MIXES[letter].supply() for letter in sorted(set(_TURN))}
    letters = cycle(_TURN)

    async def call(http: httpx.AsyncClient) -> int:
        letter = next(letters)
        _, data = supplies[letter].take()
        job = await submit(http, data, json.dumps(MIXES[letter].steps), WAIT)
        accepted.append(job["id"])
        while job["state"] in ("queued", "running"):
            job = (await http.get(f"/api/jobs/{job['id']}", headers=WAIT)).json()
        if job["state"] != "succeeded":
            raise Unexpected(f"the job ended as {job['state']}: {job}")
        return 0

    return call


async def watch(running: RunningService, seen: Watch, began: float) -> None:
    """Take a sample every 30 seconds, until this task is cancelled."""
    while True:
        memory, descriptors = await asyncio.to_thread(_sample, running)
        connections = await asyncio.to_thread(_connections, running)
        seen.add(
            time.monotonic() - began,
            pss_mb=sum(memory.values()) / 1e6,
            descriptors=sum(descriptors.values()),
            connections=connections,
            **{f"{_PART}{label}": value / 1e6 for label, value in memory.items()},
        )
        await asyncio.sleep(_PAUSE_S)


def _sample(running: RunningService) -> tuple[dict[str, float], dict[str, float]]:
    descriptors: dict[str, float] = {}
    for process in cpu.family(running.launcher):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            descriptors[cpu.label(process)] = descriptors.get(cpu.label(process), 0) + process.num_fds()
    return cpu.pss_by_label(running.launcher), descriptors


def _connections(running: RunningService) -> int:
    with psycopg.connect(running.database_url()) as connection:
        row = connection.execute("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'")
        return int((row.fetchone() or (0,))[0]) - 1


def not_ended(running: RunningService, accepted: list[str]) -> int:
    """Return the number of accepted jobs that have not succeeded according to the database."""
    with psycopg.connect(running.database_url()) as connection:
        found = connection.execute("SELECT id::text FROM job WHERE state = 'succeeded'").fetchall()
    return len(set(accepted) - {job_id for (job_id,) in found})


async def soak(running: RunningService, minutes: float) -> bool:
    """Run the load. Print what was found, and return whether nothing grew, failed or got lost."""
    accepted: list[str] = []
    call = mixed_jobs(accepted)
    full = await closed_loop(running.url, call, clients=8, seconds=_CALIBRATION_S)
    rate = _SHARE * full.rate
    print(f"{full.rate:.1f} jobs a second in a closed loop; {rate:.1f} in the soak of {minutes:g} minutes", flush=True)
    seen, began = Watch(), time.monotonic()
    watching = asyncio.create_task(watch(running, seen, began))
    result = await open_loop(running.url, call, rate=rate, seconds=minutes * 60)
    watching.cancel()
    lost = await asyncio.to_thread(not_ended, running, accepted)
    latencies = sorted(result.latencies)
    print(f"jobs={len(accepted)} errors={len(result.errors)} lost={lost}", *result.errors[:3], sep="\n")
    print("latency in ms:", {q: round(1000 * latencies[int(q * (len(latencies) - 1))]) for q in (0.5, 0.95, 0.99)})
    is_flat = True
    for name in seen.samples:
        first, middle, last = seen.thirds(name)
        before = middle if name.startswith(_PART) else first
        grows = last > _MAX_GROWTH * before and last - before > 10  # noqa: PLR2004 (MB, descriptors or connections)
        is_flat &= not grows
        print(f"{name:32} {first:8.1f} {middle:8.1f} {last:8.1f}{'  grows' if grows else ''}")
    return is_flat and not lost and not result.errors and not full.errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    options = parser.parse_args()
    with new_home() as home, service(home) as running:
        sys.exit(0 if asyncio.run(soak(running, options.minutes)) else 1)


if __name__ == "__main__":
    main()
