"""The parts of the benchmark. Each part returns the figures of one run."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cpu
import floor
import httpx
import psycopg
from figures import Figures, latencies, quantile
from load import Call, Result, closed_loop, job, open_loop, read, submit
from pictures import CAMERA, SMALL, TWELVE_MEGAPIXELS, TWO_MEGAPIXELS, Size, Supply, jpegs
from running_service import RunningService
from thumbor_peer import thumbor
from webhook_receiver import receiver

OPEN_SHARE = 0.7  # the arrival rate of the open loop, as a share of the rate of the closed loop
OF_PROCESS = "cpu_ms_per_job of "  # begins the name of a figure for the processes with one label

_WEBP = {"web": {"op": "webp", "input": "source"}}
_DENOISE = {"clean": {"op": "denoise", "input": "source"}, "web": {"op": "webp", "input": "clean"}}
_SHORT_S = 2.0
_LIST_JOBS, _LIST_STEPS = 100, 50
_TURNS = 4


@dataclass(frozen=True)
class Mix:
    """Jobs of one kind. `load_s` is the duration of a load in seconds. `work` is the floor of a job."""

    title: str
    steps: dict[str, Any]
    sizes: tuple[Size, ...]
    work: floor.Work
    clients: int
    load_s: float
    quality: int = 90
    wait: bool = True
    has_open_loop: bool = True

    def supply(self) -> Supply:
        """Make the pictures of this mix."""
        return Supply(jpegs(list(self.sizes), self.quality))


MIXES = {
    "a": Mix("0.4 MP → WebP, 16 clients that wait", _WEBP, (SMALL,) * 16, floor.webp, 16, 5),
    "b": Mix("0.4 MP → WebP, 16 clients that poll", _WEBP, (SMALL,) * 16, floor.webp, 16, 5, wait=False),
    "c": Mix(
        "2 MP → WebP + AVIF + PNG, 8 clients",
        {
            "web": {"op": "webp", "input": "source"},
            "small": {"op": "avif", "input": "source"},
            "exact": {"op": "png", "input": "source", "effort": "fast"},
        },
        (TWO_MEGAPIXELS,) * 6,
        floor.three_formats,
        8,
        6,
    ),
    "d": Mix(
        "camera, 8–20 MP → WebP + AVIF + metadata, 4 clients",
        {
            "web": {"op": "webp", "input": "source", "resize": {"width": 1280}},
            "small": {"op": "avif", "input": "source", "resize": {"width": 320}},
            "exif": {"op": "metadata", "input": "source"},
        },
        CAMERA,
        floor.camera,
        4,
        6,
        quality=92,
    ),
    "e": Mix("2 MP, denoise → WebP, 1 client", _DENOISE, (TWO_MEGAPIXELS,), floor.denoise, 1, 1, has_open_loop=False),
}


@dataclass
class Bench:
    """What the parts use. `pace` multiplies the duration of every load. `pool` and `single` run the floor."""

    service: RunningService
    thumbor: Path
    pace: float
    pool: floor.Floor = field(default_factory=lambda: floor.Floor(floor.PROCESSES))
    single: floor.Floor = field(default_factory=lambda: floor.Floor(1))
    tiny: Supply = field(default_factory=lambda: Supply(jpegs([(64, 64)] * 8)))
    _supplies: dict[str, Supply] = field(default_factory=dict)
    _finished_job: str | None = None

    def supply(self, letter: str) -> Supply:
        """Return the pictures of a mix. They are made once, and warm up the service."""
        if letter == "b":
            letter = "a"
        if letter not in self._supplies:
            mix, supply = MIXES[letter], MIXES[letter].supply()
            self._supplies[letter] = supply
            call = job(supply, json.dumps(mix.steps), wait=True)
            warm = asyncio.run(closed_loop(self.service.url, call, clients=mix.clients, seconds=60, calls=mix.clients))
            if not warm.latencies:
                raise RuntimeError(f"mix {letter} does not run: {warm.errors}")
        return self._supplies[letter]

    def closed(self, call: Call, clients: int, seconds: float) -> Result:
        """Run a closed loop against the service."""
        return asyncio.run(closed_loop(self.service.url, call, clients=clients, seconds=seconds * self.pace))

    def open(self, call: Call, rate: float, seconds: float) -> Result:
        """Run an open loop against the service, with `rate` calls per second."""
        return asyncio.run(open_loop(self.service.url, call, rate=rate, seconds=seconds * self.pace))

    def has_denoiser(self) -> bool:
        """Return whether the service offers the operation `denoise`."""
        answer = httpx.get(f"{self.service.url}/api/operations", trust_env=False)
        return any(operation["op"] == "denoise" for operation in answer.raise_for_status().json()["operations"])

    def close(self) -> None:
        """End the processes of the floor."""
        self.pool.close()
        self.single.close()

    def finished_job(self) -> str:
        """Return the path of a job with one step that has succeeded."""
        if self._finished_job is None:
            ended = asyncio.run(_submit_and_wait(self.service.url, self.supply("a").take()[1], _WEBP))
            self._finished_job = f"/api/jobs/{ended['id']}"
        return self._finished_job


def mix(bench: Bench, letter: str) -> Figures:
    """Run one mix: the floor, a closed loop and an open loop."""
    kind, supply = MIXES[letter], bench.supply(letter)
    plain = bench.single if kind.work is floor.denoise else bench.pool  # one call of the network uses all cores
    cost = plain.measure(kind.work, supply.pictures, _SHORT_S * bench.pace)
    call = job(supply, json.dumps(kind.steps), wait=kind.wait)
    root = bench.service.launcher
    transactions, before = _transactions(bench.service), cpu.sample(root)
    closed = bench.closed(call, kind.clients, kind.load_s)
    spent = cpu.spent(before, cpu.sample(root))
    transactions = _transactions(bench.service) - transactions
    memory = sum(cpu.pss_by_label(root).values())
    done = len(closed.latencies) or 1
    per_job_s, floor_s = sum(spent.values()) / done, cost.cpu_of(closed.places or [0])
    figures = {
        "cpu_ms_per_job": 1000 * per_job_s,
        "floor_cpu_ms_per_job": 1000 * floor_s,
        "efficiency": floor_s / per_job_s,
        "jobs_per_s": closed.rate,
        "floor_jobs_per_s": cost.rate,
        "floor_wall_ms": 1000 * cost.median_wall_s,
        **latencies("closed", closed.latencies),
        "pss_mb": memory / 1e6,
        "transactions_per_job": transactions / done,
        "clients_cpu_ms_per_job": 1000 * closed.generator_s / done,
        "jobs": done,
        "errors": len(closed.errors),
    }
    figures |= {f"{OF_PROCESS}{label}": 1000 * seconds / done for label, seconds in spent.items()}
    _show_errors(closed)
    if kind.has_open_loop and closed.latencies:
        rate = OPEN_SHARE * closed.rate
        opened = bench.open(call, rate, kind.load_s)
        figures |= {"open_jobs_per_s": rate, **latencies("open", opened.latencies)}
        figures["errors"] += len(opened.errors)
        _show_errors(opened)
    return figures


def peer(bench: Bench) -> Figures:
    """Convert the pictures of mix (a) with thumbor, with as many clients."""
    supply, clients = bench.supply("a"), MIXES["a"].clients
    with thumbor(bench.thumbor, supply.pictures, floor.PROCESSES) as running:
        call = running.convert()
        asyncio.run(closed_loop(running.url, call, clients=clients, seconds=10, calls=2 * clients))
        before = cpu.sample(running.root)
        result = asyncio.run(closed_loop(running.url, call, clients=clients, seconds=_SHORT_S * bench.pace))
        spent = sum(cpu.spent(before, cpu.sample(running.root)).values())
        memory = sum(cpu.pss_by_label(running.root).values())
    _show_errors(result)
    return {
        "cpu_ms_per_job": 1000 * spent / (len(result.latencies) or 1),
        "jobs_per_s": result.rate,
        **latencies("closed", result.latencies),
        "pss_mb": memory / 1e6,
        "errors": len(result.errors),
    }


def idle(bench: Bench) -> Figures:
    """Run one job of 0.4 MP at a time, with pauses, on an idle service."""
    supply = bench.supply("a")
    codecs_s = bench.single.measure(floor.webp, supply.pictures, 1).median_wall_s
    call = job(supply, json.dumps(_WEBP), wait=True)

    async def pause_and_call(http: httpx.AsyncClient) -> int:
        started = time.perf_counter()
        place = await call(http)
        seconds.append(time.perf_counter() - started)
        await asyncio.sleep(0.2)
        return place

    seconds: list[float] = []
    result = bench.closed(pause_and_call, 1, 5)
    _show_errors(result)
    middle = quantile(seconds, 0.5)
    return {
        "idle_p50_ms": 1000 * middle,
        "codecs_ms": 1000 * codecs_s,
        "idle_minus_codecs_ms": 1000 * (middle - codecs_s),
        "errors": len(result.errors),
    }


def reads(bench: Bench) -> Figures:
    """Read a finished job and `livez`, with 8 clients. The CPU time of idle processes is not subtracted."""
    figures: Figures = {}
    for name, path in (("livez", "/api/livez"), ("job", bench.finished_job())):
        before = cpu.sample(bench.service.launcher)
        result = bench.closed(read(path), 8, _SHORT_S)
        spent = sum(cpu.spent(before, cpu.sample(bench.service.launcher)).values())
        _show_errors(result)
        figures |= {
            f"{name}_cpu_ms_per_request": 1000 * spent / (len(result.latencies) or 1),
            f"{name}_requests_per_s": result.rate,
            **latencies(name, result.latencies),
            "errors": figures.get("errors", 0) + len(result.errors),
        }
    return figures


def job_list(bench: Bench) -> Figures:
    """Read a list of 100 jobs of 50 steps. All jobs but the first one share the results of the first one."""
    (picture,) = jpegs([(64, 64)])
    steps = {f"s{number}": {"op": "webp", "input": "source", "quality": number + 1} for number in range(_LIST_STEPS)}

    async def again(http: httpx.AsyncClient) -> int:
        await submit(http, picture, json.dumps(steps), {"Prefer": "wait=60"})
        return 0

    asyncio.run(_submit_and_wait(bench.service.url, picture, steps))
    filled = asyncio.run(closed_loop(bench.service.url, again, clients=8, seconds=45, calls=_LIST_JOBS - 1))
    path = f"/api/jobs?limit={_LIST_JOBS}"
    listed = asyncio.run(closed_loop(bench.service.url, read(path), clients=1, seconds=10, calls=10))
    _show_errors(filled)
    _show_errors(listed)
    return {
        "list_ms": 1000 * quantile(listed.latencies, 0.5),
        "list_jobs": len(filled.latencies) + 1,
        "cached_jobs_of_50_steps_per_s": filled.rate,
        "errors": len(filled.errors) + len(listed.errors),
    }


def webhooks(bench: Bench) -> Figures:
    """Run small jobs with and without a webhook, in turn. The difference of their CPU time is the cost of a webhook.

    Both run at the same rate. Otherwise the difference would contain a part of what the service takes at rest.
    """
    supply = bench.tiny
    spent, jobs, errors, processes = {False: 0.0, True: 0.0}, {False: 0, True: 0}, 0, {}
    with receiver() as there:
        asyncio.run(_submit_and_wait(bench.service.url, supply.take()[1], _WEBP, there.url))
        if not there.wait_for(1, 30):  # the courier starts with the first webhook
            raise RuntimeError("no webhook arrived")
        fastest = bench.closed(job(supply, json.dumps(_WEBP), wait=True, webhook_url=there.url), 8, _SHORT_S)
        errors += 0 if there.wait_for(1 + len(fastest.latencies), 30) else 1
        for has_webhook in (False, True) * _TURNS:
            call = job(supply, json.dumps(_WEBP), wait=True, webhook_url=there.url if has_webhook else None)
            before, expected = cpu.sample(bench.service.launcher), there.received
            result = bench.open(call, OPEN_SHARE * fastest.rate, _SHORT_S)
            if has_webhook and not there.wait_for(expected + len(result.latencies), 30):
                errors += 1
            used = cpu.spent(before, cpu.sample(bench.service.launcher))
            spent[has_webhook] += sum(used.values())
            jobs[has_webhook] += len(result.latencies)
            errors += len(result.errors)
            processes[has_webhook] = used.get("courier", 0.0) / (len(result.latencies) or 1)
            _show_errors(result)
    without, with_webhook = (1000 * spent[each] / (jobs[each] or 1) for each in (False, True))
    return {
        "without_webhook_cpu_ms_per_job": without,
        "with_webhook_cpu_ms_per_job": with_webhook,
        "webhook_cpu_ms": with_webhook - without,
        "courier_cpu_ms": 1000 * processes[True],
        "errors": errors,
    }


def beside_heavy(bench: Bench) -> Figures:
    """Run light jobs alone, and while a picture of 12 MP is denoised."""
    call = job(bench.supply("a"), json.dumps(_WEBP), wait=True)
    alone = bench.closed(call, 2, 4)
    with _heavy_job(bench) as heavy:
        beside = bench.closed(call, 2, 6)
        still_runs = heavy() == "running"
    _show_errors(alone)
    _show_errors(beside)
    alone_s, beside_s = quantile(alone.latencies, 0.95), quantile(beside.latencies, 0.95)
    if not still_runs:
        print("  The denoising ended before the light jobs. This machine is too fast for this part.", flush=True)
        beside_s = math.nan
    return {
        "alone_p95_ms": 1000 * alone_s,
        "beside_heavy_p95_ms": 1000 * beside_s,
        "beside_heavy_ratio": beside_s / alone_s,
        "errors": len(alone.errors) + len(beside.errors),
    }


@contextmanager
def _heavy_job(bench: Bench) -> Iterator[Any]:
    """Denoise a picture of 12 MP, from the begin of its denoising. Yield a function that returns the state of the step.

    At the end, cancel the job.
    """
    supply = Supply(jpegs([TWELVE_MEGAPIXELS]))
    with httpx.Client(base_url=bench.service.url, timeout=60, trust_env=False) as http:
        files, data = {"file": ("photo.jpg", supply.take()[1])}, {"steps": json.dumps(_DENOISE)}
        path = f"/api/jobs/{http.post('/api/jobs', files=files, data=data).raise_for_status().json()['id']}"

        def state() -> str:
            return str(http.get(path).raise_for_status().json()["steps"]["clean"]["state"])

        try:
            deadline = time.monotonic() + 60  # a replica may have to start first
            while state() == "waiting" and time.monotonic() < deadline:
                time.sleep(0.2)
            yield state
        finally:
            with suppress(httpx.HTTPError):
                http.post(f"{path}/cancel")
            time.sleep(1)


def rest(bench: Bench, seconds: float) -> Figures:
    """Measure the service without requests for some seconds."""
    root = bench.service.launcher
    before, began = cpu.sample(root), time.monotonic()
    time.sleep(seconds)
    spent, wall_s = cpu.spent(before, cpu.sample(root)), time.monotonic() - began
    memory = cpu.pss_by_label(root)
    figures = {
        "rest_cpu_percent_of_a_core": 100 * sum(spent.values()) / wall_s,
        "rest_pss_mb": sum(memory.values()) / 1e6,
        "rest_processes": len(cpu.family(root)),
        "errors": 0.0,
    }
    figures |= {f"rest_cpu_percent of {label}": 100 * value / wall_s for label, value in spent.items()}
    return figures | {f"rest_pss_mb of {label}": value / 1e6 for label, value in memory.items()}


async def _submit_and_wait(
    url: str, picture: bytes, steps: dict[str, Any], webhook_url: str | None = None
) -> dict[str, Any]:
    async with httpx.AsyncClient(base_url=url, timeout=90, trust_env=False) as http:
        ended = await submit(http, picture, json.dumps(steps), {"Prefer": "wait=60"}, webhook_url)
    if ended["state"] != "succeeded":
        raise RuntimeError(f"the job did not succeed: {ended}")
    return ended


def _transactions(service: RunningService) -> float:
    """Return the transactions of the database so far. Postgres counts them with a delay of up to a second."""
    time.sleep(1)
    with psycopg.connect(service.database_url()) as connection:
        row = connection.execute(
            "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
        ).fetchone()
    assert row is not None
    return float(row[0])


def _show_errors(result: Result) -> None:
    for error in result.errors[:3]:
        print(f"  error: {error}", flush=True)
