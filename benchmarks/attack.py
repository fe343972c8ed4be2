"""Measures what honest clients notice while 50 clients attack the service.

The benchmark starts a service. First, two honest clients submit photos of 0.4 megapixels, which become WebP files, and
wait for their jobs. Then they do the same while 50 attackers, each at an address of its own, send costly and malformed
requests without a pause. During both phases, another client asks `GET /api/livez` again and again. The benchmark prints
the latencies of both phases, the number of failed honest jobs, and by how much the memory of the ingress grows.

    python benchmarks/attack.py --seconds 120

The attackers run in a separate process with the lowest priority, because they share the machine with the service.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import struct
import time
import zlib
from collections import Counter
from collections.abc import Callable
from urllib.parse import urlsplit

import httpx
import psutil
from figures import quantile
from pictures import small_photos
from running_service import new_home, service

ATTACKERS = 50
STEPS = '{"web": {"op": "webp", "input": "source"}}'
HONEST_CLIENTS = 2
LIVEZ_PAUSE_S = 0.1
_JOBS_PER_S = 8  # the honest clients submit fewer
_BOUNDARY = "x" * 20


def main() -> None:
    """Run the benchmark and print its results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120, help="duration of the attack")
    options = parser.parse_args()
    jpegs = list(small_photos(150 + int(options.seconds * _JOBS_PER_S)))
    with new_home() as home, service(home, limit_clients=True) as running:
        url, launcher = running.url, running.launcher
        asyncio.run(honest_phase(url, jpegs[:20], 10))  # so that all converters run and all caches are filled
        alone = asyncio.run(honest_phase(url, jpegs[20:150], options.seconds / 4))
        peaks = Peaks(launcher)
        answers = multiprocessing.Manager().dict()
        attack = multiprocessing.Process(target=run_attack, args=(url, options.seconds + 5, answers))
        attack.start()
        time.sleep(3)
        attacked = asyncio.run(honest_phase(url, jpegs[150:], options.seconds, peaks.update))
        attack.join()
        time.sleep(10)
        after = memory_of_ingress(launcher)
    report("alone", alone)
    report("attacked", attacked)
    print(f"livez p99 attacked              {quantile(attacked['livez'], 0.99):8.3f} s")
    print(f"honest p95 attacked / alone     {quantile(attacked['jobs'], 0.95) / quantile(alone['jobs'], 0.95):8.2f}")
    for name, size in peaks.idle.items():
        sizes = (size, peaks.sizes[name], after[name])
        idle, highest, later = (f"{each / 1e6:8.1f} MB" for each in sizes)
        print(f"memory of {name:10} {idle}, highest {highest}, ten seconds after the attack {later}")
    growth = sum(peaks.sizes.values()) - sum(peaks.idle.values())
    print(f"growth of all three             {growth / 1e6:8.1f} MB")
    print("answers to the attackers:")
    for answer, count in sorted(answers.items()):
        print(f"  {answer:40} {count:8}")


def report(name: str, phase: dict[str, list[float]]) -> None:
    """Print the latencies of a phase."""
    for what in ("answers", "jobs", "livez"):
        times = phase[what]
        shares = (0.5, 0.95, 0.99)
        quantiles = ", ".join(f"p{100 * share:g} {quantile(times, share):.3f} s" for share in shares)
        print(f"{name:9} {what:7} {len(times):5}: {quantiles}, longest {max(times):.3f} s")
    print(f"{name:9} failed jobs {len(phase['failed'])}")


async def honest_phase(
    url: str, jpegs: list[bytes], seconds: float, observe: Callable[[], None] = lambda: None
) -> dict[str, list[float]]:
    """Submit jobs for `seconds`. Return the latencies of answers, of whole jobs, of `livez` and of failed jobs."""
    found: dict[str, list[float]] = {"answers": [], "jobs": [], "livez": [], "failed": []}
    end = time.monotonic() + seconds
    left = iter(jpegs)

    async def submit(client: httpx.AsyncClient) -> None:
        for jpeg in left:
            if time.monotonic() > end:
                return
            started = time.monotonic()
            try:
                found["answers"].append(await one_job(client, jpeg))
            except (httpx.HTTPError, AssertionError) as error:
                print(f"honest job failed: {error!r}")
                found["failed"].append(time.monotonic() - started)
            else:
                found["jobs"].append(time.monotonic() - started)

    async def ask(client: httpx.AsyncClient) -> None:
        while time.monotonic() < end:
            started = time.monotonic()
            with contextlib.suppress(httpx.HTTPError):
                assert (await client.get("/api/livez")).status_code == httpx.codes.OK
            found["livez"].append(time.monotonic() - started)
            await asyncio.to_thread(observe)
            await asyncio.sleep(LIVEZ_PAUSE_S)

    async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as client:
        await asyncio.gather(ask(client), *(submit(client) for _ in range(HONEST_CLIENTS)))
    return found


async def one_job(client: httpx.AsyncClient, jpeg: bytes) -> float:
    """Submit a photo and follow the events of its job until it has succeeded. Return the seconds until the answer."""
    started = time.monotonic()
    answer = await client.post("/api/jobs", files={"file": ("photo.jpg", jpeg)}, data={"steps": STEPS})
    answered_s = time.monotonic() - started
    assert answer.status_code == httpx.codes.ACCEPTED, answer.text
    async with client.stream("GET", f"/api/jobs/{answer.json()['id']}/events") as events:
        assert events.status_code == httpx.codes.OK
        states = [json.loads(line[6:])["state"] async for line in events.aiter_lines() if line.startswith("data: ")]
    assert states[-1] == "succeeded", states
    return answered_s


def memory_of_ingress(launcher: psutil.Process) -> dict[str, int]:
    """Return the private memory of the ingress, of Serve's proxy and of the header readers, in bytes."""
    found: Counter[str] = Counter()
    for process in launcher.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            title = " ".join(process.cmdline())
            for name, part in (("ingress", "pixtools:ingress"), ("proxy", "ProxyActor"), ("readers", "header_worker")):
                if part in title:
                    found[name] += process.memory_full_info().uss
    return found


class Peaks:
    """The highest memory of each part of the ingress, in bytes."""

    def __init__(self, launcher: psutil.Process) -> None:
        self._launcher = launcher
        self._updated_at = 0.0
        self.idle = memory_of_ingress(launcher)
        self.sizes = dict(self.idle)

    def update(self) -> None:
        """Measure again, unless the last measurement is less than a second old."""
        if time.monotonic() - self._updated_at < 1:
            return
        self._updated_at = time.monotonic()
        for name, size in memory_of_ingress(self._launcher).items():
            self.sizes[name] = max(self.sizes.get(name, 0), size)


# The attack


def run_attack(url: str, seconds: float, answers: dict[str, int]) -> None:
    """Attack with 50 clients for `seconds`. Count the answers by kind of request and status."""
    os.nice(19)
    asyncio.run(attack(url, seconds, answers))


async def attack(url: str, seconds: float, answers: dict[str, int]) -> None:
    address = urlsplit(url)
    port = address.port or 80
    requests = attacks()
    counts: Counter[str] = Counter()
    end = time.monotonic() + seconds

    async def client(number: int) -> None:
        turn = number
        while time.monotonic() < end:
            name, request = requests[turn % len(requests)]
            turn += 1
            status = "no answer"
            with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                async with asyncio.timeout(15):
                    status = await send(port, f"127.0.1.{number + 1}", request)
            counts[f"{name}: {status}"] += 1

    await asyncio.gather(*(client(number) for number in range(ATTACKERS)))
    answers.update(counts)


async def send(port: int, source: str, request: tuple[bytes, ...]) -> str:
    """Send a request from the address `source`, and return the status of the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
    try:
        with contextlib.suppress(ConnectionError):
            for piece in request:
                for start in range(0, len(piece), 1 << 18):
                    writer.write(piece[start : start + (1 << 18)])
                    await writer.drain()
        line = await reader.readline()
        return line.split(b" ")[1].decode() if line.count(b" ") > 1 else "closed"
    finally:
        writer.close()


def attacks() -> list[tuple[str, tuple[bytes, ...]]]:
    """Return the worst requests that are known, each with a name."""
    many = json.dumps({"n" * 160_000: {"op": "webp", "input": "source"} | {f"f{i}": 1 for i in range(8_000)}})
    fields = json.dumps({f"s{step}": {"op": "webp"} | {f"f{i}": 1 for i in range(64)} for step in range(50)})[:65_000]
    cyclic = json.dumps({f"s{i}": {"op": "zip", "input": [f"s{j}" for j in range(50)]} for i in range(50)})
    short = json.dumps(["a" * 2_000] * 70)
    nested = "[" * 60_000
    png = picture_of_png()
    plan = '{"a": {"op": "webp", "input": "source"}}'
    head = "Host: 127.0.0.1\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: "
    return [
        ("steps with a long name", form(png, steps=many)),
        ("steps with many parameters", form(png, steps=fields)),
        ("steps with cycles", form(png, steps=cyclic)),
        ("short form with many names", form(png, operations=short)),
        ("deeply nested JSON", form(png, steps=nested)),
        ("TIFF with 600,000 strips", form(tiff(600_000), steps=plan)),
        ("TIFF with 75,000 strips", form(tiff(75_000), steps=plan)),
        ("TIFF of 25 MB", form(tiff(3_000_000), steps=plan)),
        ("PNG with 20,001 chunks", form(png[:33] + png_chunk(b"tEXt", b"a\0b") * 20_001 + png[33:], steps=plan)),
        ("PNG with compressed texts", form(png[:33] + bomb() * 250 + png[33:], steps=plan)),
        ("JPEG with junk", form(b"\xff\xd8" + b"\xff\xe0\0\x10JFIF\0" + b"\xc4" * 22_000_000, steps=plan)),
        ("GIF with many blocks", form(b"GIF89a\1\0\1\0\0\0\0" + b"\x21\xfe\1a\0" * 4_000_000, steps=plan)),
        ("many parts", form(png, *((f"p{i}", png) for i in range(500)), steps=plan)),
        (
            "large JSON",
            (f"POST /api/dead-letters/redrive HTTP/1.1\r\n{head}40000000\r\n\r\n".encode(), b"[" * 40_000_000),
        ),
        ("large headers", (b"GET /api/livez HTTP/1.1\r\nHost: 127.0.0.1\r\nA: ", b"a" * 67_000_000)),
        ("readiness", (b"GET /api/readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",)),
        ("health", (b"GET /api/health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",)),
        ("half a body", form(png, steps=plan)[:1]),
    ]


def form(file: bytes, *parts: tuple[str, bytes], **fields: str) -> tuple[bytes, ...]:
    """Return the head and the body of a request that submits a job."""
    body = b"".join(
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n'.encode()
        for name, text in fields.items()
    )
    for name, data in (("file", file), *parts):
        item = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"; filename="a"\r\n\r\n'
        body += item.encode() + data + b"\r\n"
    body += f"--{_BOUNDARY}--\r\n".encode()
    head = (
        f"POST /api/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
        f"Content-Type: multipart/form-data; boundary={_BOUNDARY}\r\n\r\n"
    )
    return head.encode(), body


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def picture_of_png() -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0))
    pixels = png_chunk(b"IDAT", zlib.compress(bytes(25 * 8)))
    return b"\x89PNG\r\n\x1a\n" + header + pixels + png_chunk(b"IEND", b"")


def bomb() -> bytes:
    return png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1_000_000)))


def tiff(strips: int) -> bytes:
    """Return a TIFF with this number of strips, each with an offset and a size."""
    values = {256: (3, 1, 100), 257: (3, 1, 16_384), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1), 277: (3, 1, 1)}
    start = 8 + 2 + 12 * (len(values) + 3) + 4
    values |= {273: (4, strips, start), 278: (3, 1, 1), 279: (4, strips, start + 4 * strips)}
    entries = b"".join(struct.pack("<HHII", tag, *value) for tag, value in sorted(values.items()))
    return b"II*\0" + struct.pack("<IH", 8, len(values)) + entries + bytes(4) + struct.pack("<I", start) * 2 * strips


if __name__ == "__main__":
    main()
