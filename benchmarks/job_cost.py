"""Measures the CPU seconds that all processes of the service together take for a job, compared with plain Pillow.

The benchmark starts a service. 16 clients submit photos of 0.4 megapixels, which become WebP files, and wait for their
jobs in the same request. With `--poll`, they read their jobs every 100 ms instead. The benchmark adds up the CPU time
of every process that `pixtools up` started. The baseline decodes and encodes the same photos with Pillow in a loop, in
the same run. Machines and their load differ, so the result is the ratio of service to baseline.

    python benchmarks/job_cost.py --jobs 200

By default, the photos are generated. If the environment variable PIXTOOLS_BENCH_PHOTOS gives a folder, the photos in
this folder are scaled to 0.4 megapixels and used instead.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from PIL import Image

SIZE = (768, 512)
STEPS = '{"web": {"op": "webp", "input": "source"}}'
POLL_S = 0.1


def main() -> None:
    """Run the benchmark and print its results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--poll", action="store_true", help="clients poll instead of waiting")
    options = parser.parse_args()
    wait_s = 0 if options.poll else 60
    pictures = photos(options.jobs + options.concurrency)
    warm, timed = pictures[: options.concurrency], pictures[options.concurrency :]
    with service() as (url, launcher):
        asyncio.run(run(url, warm, options.concurrency, wait_s))  # so that all converters run and all caches are filled
        before, started = cpu_by_process(launcher), time.perf_counter()
        latencies = asyncio.run(run(url, timed, options.concurrency, wait_s))
        wall = time.perf_counter() - started
        spent = cpu_since(before, launcher)
    baseline = pillow_cpu(timed) / len(timed)
    total = sum(spent.values()) / len(timed)
    print(
        f"{len(timed)} jobs of {SIZE[0]} × {SIZE[1]} → WebP, concurrency {options.concurrency}, "
        f"{'polling' if options.poll else 'waiting'} clients, {os.cpu_count()} cores"
    )
    print(f"jobs/s                {len(timed) / wall:8.1f}")
    print(f"completion p50 / p95  {statistics.median(latencies):8.2f} / {quantile(latencies, 0.95):.2f} s")
    print(f"CPU s per job         {total:8.4f}")
    print(f"plain Pillow          {baseline:8.4f}")
    print(f"ratio                 {total / baseline:8.2f}")
    print("CPU s per job by process:")
    for name, seconds in sorted(spent.items(), key=lambda item: -item[1]):
        if seconds / len(timed) >= 0.0001:  # noqa: PLR2004
            print(f"  {name:28} {seconds / len(timed):8.4f}")


def photos(count: int) -> list[bytes]:
    """Return `count` JPEG files. All files differ, so no step reuses the artifact of another step."""
    folder = os.environ.get("PIXTOOLS_BENCH_PHOTOS")
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file()) if folder else []
    rng = random.Random(0)
    jpegs = []
    for number in range(count):
        image = Image.open(files[number % len(files)]).convert("RGB") if files else landscape(number)
        if image.size != SIZE:
            image = image.resize(SIZE, Image.Resampling.LANCZOS)
        image.putpixel((0, 0), tuple(rng.randrange(256) for _ in range(3)))
        out = io.BytesIO()
        image.save(out, "JPEG", quality=90, comment=str(number))
        jpegs.append(out.getvalue())
    return jpegs


def landscape(seed: int) -> Image.Image:
    """Return a picture with the spectrum of a photo: noise at eight scales. Finer noise is weaker."""
    rng = np.random.default_rng(seed)
    layers = np.zeros((SIZE[1], SIZE[0], 3), np.float32)
    for octave in range(1, 9):
        noise = rng.normal(0, 1, (2**octave, 2**octave, 3)).astype(np.float32)
        for channel in range(3):
            layer = Image.fromarray(noise[:, :, channel]).resize(SIZE, Image.Resampling.BICUBIC)
            layers[:, :, channel] += np.asarray(layer) / 2**octave
    return Image.fromarray((128 + 90 * layers).clip(0, 255).astype(np.uint8))


@contextlib.contextmanager
def service() -> Iterator[tuple[str, psutil.Process]]:
    """Run `pixtools up` on free ports with an empty home. Yields the URL and the process of the service."""
    with tempfile.TemporaryDirectory(prefix="pixtools-bench-") as home:
        Path(home).chmod(0o711)  # Postgres may run as another user
        names = ("PIXTOOLS_PORT", "PIXTOOLS_DASHBOARD_PORT", "PIXTOOLS_RAY_CLIENT_PORT", "PIXTOOLS_S3_PORT")
        ports = {name: str(port) for name, port in zip(names, free_ports(len(names)), strict=True)}
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PIXTOOLS_", "RAY_"))}
        process = subprocess.Popen(
            [Path(sys.executable).with_name("pixtools"), "up"],
            env=inherited | ports | {"PIXTOOLS_HOME": f"{home}/home"},
            stdout=sys.stderr,
        )
        url = f"http://127.0.0.1:{ports['PIXTOOLS_PORT']}"
        try:
            wait_until_ready(url, process)
            yield url, psutil.Process(process.pid)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)


def wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until the service is ready. Exits if the service ends, or is not ready after two minutes."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/api/readyz").status_code == httpx.codes.OK:
                return
        time.sleep(0.5)
    raise SystemExit("the service is not ready after two minutes")


def free_ports(count: int) -> list[int]:
    """Return TCP ports that are free now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in sockets]
    for server in sockets:
        server.close()
    return ports


async def run(url: str, pictures: list[bytes], concurrency: int, wait_s: int) -> list[float]:
    """Submit all pictures, `concurrency` at a time. Return the seconds until the end of each job.

    Each request waits for the end of its job for up to `wait_s` seconds. After that, the client polls.
    """
    waiting = iter(enumerate(pictures))
    latencies: list[float] = []

    async def client(http: httpx.AsyncClient) -> None:
        for number, data in waiting:
            started = time.perf_counter()
            answer = await http.post("/api/jobs", files={"file": (f"{number}.jpg", data)}, data={"steps": STEPS})
            answer.raise_for_status()
            job: dict[str, Any] = answer.json()
            while job["state"] in ("queued", "running"):
                await asyncio.sleep(POLL_S)
                job = (await http.get(f"/api/jobs/{job['id']}")).json()
            if job["state"] != "succeeded" or job["steps"]["web"]["cached"]:
                raise SystemExit(f"the job did not run as expected: {job}")
            latencies.append(time.perf_counter() - started)

    headers = {"Prefer": f"wait={wait_s}"} if wait_s else {}
    async with httpx.AsyncClient(base_url=url, timeout=90, headers=headers) as http:
        await asyncio.gather(*(client(http) for _ in range(concurrency)))
    return latencies


def cpu_by_process(launcher: psutil.Process) -> dict[tuple[int, str], float]:
    """Return the CPU seconds of each process of the service until now, by process id and label."""
    seconds = {}
    for process in (launcher, *launcher.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            seconds[process.pid, label(process)] = times.user + times.system
    return seconds


def cpu_since(before: dict[tuple[int, str], float], launcher: psutil.Process) -> dict[str, float]:
    """Return the CPU seconds since `before`, by label. Processes that have ended since then are not counted."""
    spent: dict[str, float] = {}
    known = {pid: seconds for (pid, _), seconds in before.items()}
    for (pid, name), seconds in cpu_by_process(launcher).items():
        spent[name] = spent.get(name, 0.0) + seconds - known.get(pid, 0.0)
    return spent


def label(process: psutil.Process) -> str:
    """Return a short name: the name of the Ray actor or Ray process, or else the name of the program."""
    title = " ".join(process.cmdline())
    if title.startswith("ray::"):
        return title.split(":", 4)[2].split(".")[0].split("(")[0].strip()
    if "ray" in title:
        return next(
            (part for part in ("gcs_server", "raylet", "dashboard", "client.server") if part in title), "ray, other"
        )
    return process.name()


def pillow_cpu(pictures: list[bytes]) -> float:
    """Return the CPU seconds that plain Pillow takes to decode the pictures and encode them as WebP."""
    started = time.process_time()
    for data in pictures:
        with Image.open(io.BytesIO(data)) as image:
            image.save(io.BytesIO(), "WEBP", quality=80, method=4)
    return time.process_time() - started


def quantile(values: list[float], q: float) -> float:
    """Return the value below which the fraction `q` of the values lies."""
    return sorted(values)[min(len(values) - 1, int(q * len(values)))]


if __name__ == "__main__":
    main()
