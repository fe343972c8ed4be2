"""Clients that load a server: a closed loop and an open loop.

In a closed loop, each client sends its next request after the answer to the last one. So a slow server gets fewer
requests. In an open loop, requests arrive at fixed times, and their latency counts from these times. So a server that
is slow for a moment cannot hide this ("coordinated omission").
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
from figures import arrivals
from pictures import Supply

WAIT = {"Prefer": "wait=60"}
POLL_S = 0.1
_LIMIT_S = 90.0  # of one call
_MAX_ERRORS = 20  # then the load ends early

Call = Callable[[httpx.AsyncClient], Awaitable[int]]
"""What a client does once, such as one job. Returns the place of its picture, or 0."""


class Unexpected(Exception):
    """A server gave an answer that the benchmark does not expect."""


@dataclass
class Result:
    """The calls of one load. Times are in seconds.

    `wall_s` is the time from the first call to the end of the last one. `generator_s` is the CPU time of the clients.
    `places` are the places of the pictures of the calls that succeeded.
    """

    latencies: list[float] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    wall_s: float = 0.0
    generator_s: float = 0.0

    @property
    def rate(self) -> float:
        """The calls per second that succeeded."""
        return len(self.latencies) / self.wall_s


async def closed_loop(url: str, call: Call, *, clients: int, seconds: float, calls: int | None = None) -> Result:
    """Let each of `clients` repeat `call` for `seconds`, or until `calls` calls have begun. Wait for all answers."""
    result = Result()
    end = time.perf_counter() + seconds
    begun = 0

    async def client(http: httpx.AsyncClient) -> None:
        nonlocal begun
        while time.perf_counter() < end and begun != calls and len(result.errors) < _MAX_ERRORS:
            begun += 1
            await _timed(http, call, time.perf_counter(), result)

    async with _connections(url) as http:
        with _measured(result):
            await asyncio.gather(*(client(http) for _ in range(clients)))
    return result


async def open_loop(url: str, call: Call, *, rate: float, seconds: float) -> Result:
    """Begin `rate` calls per second for `seconds`, at fixed times. Wait for the last answers."""
    result = Result()
    async with _connections(url) as http:
        with _measured(result):
            began = time.perf_counter()
            async with asyncio.TaskGroup() as group:
                for offset in arrivals(rate, seconds):
                    await asyncio.sleep(began + offset - time.perf_counter())
                    if len(result.errors) >= _MAX_ERRORS:
                        break
                    group.create_task(_timed(http, call, began + offset, result))
    return result


def job(supply: Supply, steps: str, *, wait: bool, webhook_url: str | None = None) -> Call:
    """Return a call that submits a job and ends when the job has succeeded.

    With `wait`, the client waits in its requests. Otherwise, it reads the job every 100 ms. The end of the job is sent
    to `webhook_url`.
    """
    headers = WAIT if wait else {}

    async def call(http: httpx.AsyncClient) -> int:
        place, data = supply.take()
        ended = await submit(http, data, steps, headers, webhook_url)
        while ended["state"] in ("queued", "running"):
            await asyncio.sleep(POLL_S)
            ended = _json(await http.get(f"/api/jobs/{ended['id']}", headers=headers))
        if ended["state"] != "succeeded" or any(step["cached"] for step in ended["steps"].values()):
            raise Unexpected(f"the job did not run as expected: {ended}")
        return place

    return call


async def submit(
    http: httpx.AsyncClient,
    data: bytes,
    steps: str,
    headers: dict[str, str] | None = None,
    webhook_url: str | None = None,
) -> dict[str, Any]:
    """Submit a job, and return the answer. Raises Unexpected if the job is refused."""
    fields = {"steps": steps} | ({"webhook_url": webhook_url} if webhook_url else {})
    return _json(await http.post("/api/jobs", files={"file": ("photo.jpg", data)}, data=fields, headers=headers))


def read(path: str) -> Call:
    """Return a call that reads `path`."""

    async def call(http: httpx.AsyncClient) -> int:
        answer = await http.get(path)
        if answer.status_code != httpx.codes.OK:
            raise Unexpected(f"{path}: {answer.status_code} {answer.text[:200]}")
        return 0

    return call


async def _timed(http: httpx.AsyncClient, call: Call, since: float, result: Result) -> None:
    """Run a call and note its latency since the time `since`. An error ends only this call."""
    try:
        async with asyncio.timeout(_LIMIT_S):
            place = await call(http)
    except (httpx.HTTPError, Unexpected, TimeoutError) as error:
        result.errors.append(repr(error)[:1000])
    else:
        result.latencies.append(time.perf_counter() - since)
        result.places.append(place)


def _json(answer: httpx.Response) -> dict[str, Any]:
    if not answer.is_success:
        raise Unexpected(f"{answer.request.url}: {answer.status_code} {answer.text[:500]}")
    body: dict[str, Any] = answer.json()
    return body


def _connections(url: str) -> httpx.AsyncClient:
    # No limit on connections: a call of an open loop must not wait for the connection of another call.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
    return httpx.AsyncClient(base_url=url, timeout=_LIMIT_S, limits=limits, trust_env=False)


@contextmanager
def _measured(result: Result) -> Iterator[None]:
    began, cpu = time.perf_counter(), time.process_time()
    yield
    result.wall_s, result.generator_s = time.perf_counter() - began, time.process_time() - cpu
