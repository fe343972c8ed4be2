"""Simulates a large cluster. Shows which part of the service is saturated first, and at how many jobs per second.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --converters 1000 --dispatchers 4 --ingresses 8

The simulation knows only measured costs. A job visits parts of the service in a fixed order, and each visit takes a
time. Each part has some servers, and jobs that find no free server wait in one queue. The cost of each part comes from
build/bench.json, mix (a), if this file exists, and else from the measurement in `DEFAULTS`.

The first table contains the limit of each part, which is its number of servers divided by the time that a job needs
there. The smallest limit is the limit of the service ("bottleneck law"). The second table contains the simulated
latencies below and above this limit. The simulation ignores the network, and the work that hardly depends on jobs,
such as that of Ray itself.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from figures import quantile, table

BENCH = Path(__file__).parent.parent / "build/bench.json"

# CPU milliseconds per job of 0.4 MP → WebP by process, and transactions per job, as measured on two shared cores.
DEFAULTS = {
    "converters": 60.0,
    "dispatcher": 34.0,
    "ingress": 23.0,
    "Serve proxy": 11.0,
    "Postgres": 7.0,
    "S3 server": 2.0,
}
_TRANSACTIONS = 4.0
_OBJECT_REQUESTS = 3  # put the source, get it, put the artifact


@dataclass(frozen=True)
class Part:
    """A part of the service. A job needs `job_s` seconds of one of its servers, over all its visits."""

    name: str
    servers: int
    job_s: float
    visits: int

    @property
    def limit(self) -> float:
        """The largest number of jobs per second."""
        return self.servers / self.job_s


@dataclass(frozen=True)
class Outcome:
    """A simulated load. `busy` is the share of the time, 0..1, in which the servers of each part work."""

    latencies_s: list[float]
    waits_s: dict[str, list[float]]  # of each visit, by part
    busy: dict[str, float]


Draw = Callable[[float], float]
"""Returns a time of service with the given mean, in seconds."""


def simulate(parts: Sequence[Part], route: Sequence[str], rate: float, jobs: int, draw: Draw, seed: int = 1) -> Outcome:
    """Simulate `jobs` jobs that arrive at random, `rate` per second (a Poisson process).

    A job visits the parts of `route` in this order. Each visit of a part takes an equal share of `job_s`. The first
    tenth of the jobs does not count, because the queues are empty at first.
    """
    rng = random.Random(seed)
    by_name = {part.name: part for part in parts}
    free_at = {part.name: [0.0] * part.servers for part in parts}  # heaps: when each server becomes free
    busy = dict.fromkeys(by_name, 0.0)
    waits: dict[str, list[float]] = {name: [] for name in by_name}
    events: list[tuple[float, int, int, int]] = []  # (time, tie-breaker, job, index in the route)
    order = count()
    arrived, ended = [0.0] * jobs, [0.0] * jobs
    now = 0.0
    for job in range(jobs):
        now += rng.expovariate(rate)
        arrived[job] = now
        heapq.heappush(events, (now, next(order), job, 0))
    while events:
        now, _, job, at = heapq.heappop(events)
        if at == len(route):
            ended[job] = now
            continue
        part = by_name[route[at]]
        # Events come in the order of time, so the job that arrived first gets the server that becomes free first.
        begin = max(now, heapq.heappop(free_at[part.name]))
        service_s = draw(part.job_s / part.visits)
        heapq.heappush(free_at[part.name], begin + service_s)
        heapq.heappush(events, (begin + service_s, next(order), job, at + 1))
        busy[part.name] += service_s
        waits[part.name].append(begin - now)
    total_s = max(ended)
    latencies = [ended[job] - arrived[job] for job in range(jobs // 10, jobs)]
    shares = {name: seconds / total_s / by_name[name].servers for name, seconds in busy.items()}
    return Outcome(latencies, waits, shares)


def bottleneck(parts: Sequence[Part]) -> Part:
    """Return the part with the smallest limit."""
    return min(parts, key=lambda part: part.limit)


# A job is accepted, claimed, run, recorded and answered.
ROUTE = (
    "proxies", "ingresses", "object store", "Postgres",
    "dispatchers", "Postgres", "object store", "converters", "object store", "dispatchers", "Postgres",
    "ingresses",
)  # fmt: skip


def measured(options: argparse.Namespace) -> list[Part]:
    """Return the parts with their measured costs."""
    costs, transactions = dict(DEFAULTS), _TRANSACTIONS
    if options.bench.exists():
        figures = json.loads(options.bench.read_text())["parts"].get("a", {})
        prefix = "cpu_ms_per_job of "
        costs |= {name: figures[prefix + name]["median"] for name in costs if prefix + name in figures}
        transactions = figures.get("transactions_per_job", {}).get("median", transactions)
    print(f"Costs: {options.bench if options.bench.exists() else 'DEFAULTS'}; {transactions:.1f} transactions per job,")
    print(
        f"{costs['Postgres'] / transactions:.2f} ms of Postgres for each; {_OBJECT_REQUESTS} requests to the object "
        f"store per job, {costs['S3 server'] / _OBJECT_REQUESTS:.2f} ms for each."
    )
    servers = {
        "proxies": (-(-options.converters // options.cores_per_node), "Serve proxy"),
        "ingresses": (options.ingresses, "ingress"),
        "dispatchers": (options.dispatchers, "dispatcher"),
        "Postgres": (options.postgres_cores, "Postgres"),
        "object store": (options.store_cores, "S3 server"),
        "converters": (options.converters, "converters"),
    }
    return [Part(name, number, costs[cost] / 1000, ROUTE.count(name)) for name, (number, cost) in servers.items()]


def main() -> None:
    """Simulate the cluster that the command line describes, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--converters", type=int, default=1000, help="each has one core")
    parser.add_argument("--cores-per-node", type=int, default=16, help="each node also has one proxy of Serve")
    parser.add_argument("--dispatchers", type=int, default=1, help="processes; each uses at most one core")
    parser.add_argument("--ingresses", type=int, default=1, help="replicas; each uses at most one core")
    parser.add_argument("--postgres-cores", type=int, default=8)
    parser.add_argument("--store-cores", type=int, default=8)
    parser.add_argument("--jobs", type=int, default=20_000, help="simulated jobs of each load")
    parser.add_argument("--bench", type=Path, default=BENCH, help="results of bench.py")
    options = parser.parse_args()
    parts = measured(options)
    first = bottleneck(parts)
    print()
    print(limits(parts, options.converters))
    print(
        f"\nThe part that is saturated first: {first.name}, at {first.limit:,.0f} jobs/s. "
        f"Then {first.limit * _of(parts, 'converters').job_s:,.0f} of {options.converters:,} converters work.\n"
    )
    print(loads(parts, first.limit, options.jobs))


def limits(parts: Sequence[Part], converters: int) -> str:
    """Return a table of the limit of each part, and of the servers that `converters` busy converters need."""
    full = converters / _of(parts, "converters").job_s
    rows = [
        (
            part.name,
            {
                "servers": float(part.servers),
                "ms a job": 1000 * part.job_s,
                "limit, jobs/s": part.limit,
                "servers for all converters": full * part.job_s,
            },
        )
        for part in sorted(parts, key=lambda part: part.limit)
    ]
    return table(["part", "servers", "ms a job", "limit, jobs/s", "servers for all converters"], rows)


def loads(parts: Sequence[Part], limit: float, jobs: int) -> str:
    """Return a table of simulated loads: the latencies, and how busy the servers of each part are."""
    rng = random.Random(2)
    names = [part.name for part in parts]
    rows: list[tuple[str, dict[str, float | None]]] = []
    for share in (0.5, 0.8, 0.95, 1.2):
        outcome = simulate(parts, ROUTE, share * limit, jobs, lambda seconds: rng.expovariate(1 / seconds))
        values: dict[str, float | None] = {"jobs/s": share * limit}
        values |= {f"p{100 * q:.0f} ms": 1000 * quantile(outcome.latencies_s, q) for q in (0.5, 0.95, 0.99)}
        values |= {f"{name} %": 100 * outcome.busy[name] for name in names}
        rows.append((f"{100 * share:.0f} % of the limit", values))
    return table(["load", "jobs/s", "p50 ms", "p95 ms", "p99 ms", *(f"{name} %" for name in names)], rows)


def _of(parts: Sequence[Part], name: str) -> Part:
    return next(part for part in parts if part.name == name)


if __name__ == "__main__":
    main()
