"""Clients submit jobs while faults are injected. At the end, the result of each request is checked.

The check reports the same fields as the queue test of Jepsen, a framework for fault tests:

    attempted     requests with different idempotency keys; a repeated request counts once
    acknowledged  requests that finally got a 202
    ok            acknowledged jobs that succeeded, and whose artifacts in S3 have the digest that the API returns
    lost          all other acknowledged jobs
    unexpected    jobs in the database that belong to no request
    duplicated    keys with more than one job, jobs that ended twice, and jobs that were moved out of `running` by a
                  connection that did not hold them
    recovered     requests that were never acknowledged, but whose job exists and succeeded
"""

from __future__ import annotations

import collections
import hashlib
import io
import json
import secrets
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Self

import httpx
import numpy as np
from api import Api
from audit import ENDED, Audit, JobRow
from PIL import Image

WEBP_AND_ZIP = {
    "web": {"op": "webp", "input": "source"},
    "small": {"op": "avif", "input": "source", "speed": 7},
    "all": {"op": "zip", "input": ["web", "small"]},
}
"""Steps that together take some 0.3 s of one core."""


def one_avif(speed: int) -> dict[str, Any]:
    """Return one step. At speed 6 it takes at most 0.6 s of one core, and at speed 3 eight times as much."""
    return {"only": {"op": "avif", "input": "source", "speed": speed}}


def photo(width: int = 1280, height: int = 960) -> bytes:
    out = io.BytesIO()
    noise = Image.fromarray(np.random.default_rng(7).integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8))
    noise.resize((width, height), Image.Resampling.BICUBIC).save(out, "JPEG", quality=90)
    return out.getvalue()


PHOTO = photo()


def titled(jpeg: bytes, title: str) -> bytes:
    """Return the picture with `title` as a comment, so that steps on it find no artifact of an earlier job."""
    comment = title.encode()
    return jpeg[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + jpeg[2:]


def sha256(url: str) -> str | None:
    """Return the digest of the file at `url`, or None if the file cannot be read completely."""
    try:
        answer = httpx.get(url, timeout=60)
    except httpx.TransportError:
        return None
    return hashlib.sha256(answer.content).hexdigest() if answer.is_success else None


@dataclass
class Report:
    """The result of the check. The docstring of the module describes the fields."""

    attempted: int = 0
    acknowledged: int = 0
    ok: int = 0
    lost: int = 0
    unexpected: int = 0
    duplicated: int = 0
    recovered: int = 0
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return " ".join(f"{name}={count}" for name, count in vars(self).items() if name != "problems")

    @property
    def clean(self) -> bool:
        """Whether no job was harmed."""
        return self.lost == self.unexpected == self.duplicated == 0 and self.ok == self.acknowledged


class Workload:
    """Threads that submit jobs by HTTP, and repeat each request until it is acknowledged.

    The threads end when the `with` block ends.
    """

    def __init__(
        self, stack, audit, *, jobs, clients=4, steps=None, picture=PHOTO, pause=0.0, timeout=120.0,
    ) -> None:  # fmt: skip
        self.stack = stack
        self.audit: Audit = audit
        self.prefix = f"w{secrets.token_hex(4)}"
        self.since = audit.now()
        self.acknowledged: dict[str, str] = {}  # for each name of a request, the id of its job
        self.answers: collections.Counter[str] = collections.Counter()
        self.refused: list[str] = []
        self._steps = json.dumps(steps or WEBP_AND_ZIP)
        self._picture = picture
        self.pause = pause
        self._timeout = timeout
        self._left = collections.deque(f"{self.prefix}-{number}.jpg" for number in range(jobs))
        self._attempted: list[str] = []
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._client) for _ in range(clients)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.give_up()

    def give_up(self) -> None:
        """Stop the clients, even if their requests are not acknowledged."""
        self._stopped.set()
        self.join()

    def join(self) -> None:
        """Wait until the clients have ended."""
        for thread in self._threads:
            thread.join()

    def jobs(self) -> list[JobRow]:
        """Return all jobs of this workload."""
        return [job for jobs in self.audit.jobs(self.prefix).values() for job in jobs]

    def count(self, *states: str) -> int:
        """Return how many jobs are in one of these states."""
        return sum(job.state in states for job in self.jobs())

    def wait_until(self, states: tuple[str, ...], count: int, timeout: float = 120) -> None:
        """Wait until `count` jobs are in one of these states."""
        deadline = time.monotonic() + timeout
        while self.count(*states) < count:
            assert time.monotonic() < deadline, (self.jobs(), self.answers)
            time.sleep(0.05)

    def wait_for_work(self) -> tuple[str, str]:
        """Wait until a step runs, and return the name of its dispatcher and the step key."""
        statement = """
            SELECT dispatcher, key FROM job JOIN step ON job_id = id
            WHERE source_name ~ %s AND step.state = 'running'
        """
        return self.audit.wait(statement, [f"^{self.prefix}-"])[0]

    def send_all_again(self) -> None:
        """Repeat each acknowledged request, like a client that has lost the answer."""
        with httpx.Client(base_url=self.stack.base_url, timeout=30) as http:
            for name in self.acknowledged:
                assert self.send(http, name).status_code == 202

    def finish(self, title: str, *, timeout: float = 180, stopped: bool = False) -> Report:
        """Wait until all jobs have ended, for up to `timeout` seconds. Check them, and print and return the report.

        `stopped` is true if the service was shut down meanwhile, and not killed.
        """
        self.join()
        deadline = time.monotonic() + timeout
        while self.count(*ENDED) < len(self.jobs()) and time.monotonic() < deadline:
            time.sleep(0.2)
        time.sleep(1)  # because a dispatcher that lost its jobs may still report results
        report = self._check(stopped=stopped)
        print(f"\n{title}: {report} answers={dict(self.answers)} attempts={self._attempts()}")
        for problem in report.problems:
            print(f"  {problem}")
        assert not self.refused, self.refused
        return report

    def send_once(self) -> httpx.Response:
        """Send one more request without repeating it, and return the answer."""
        name = f"{self.prefix}-once-{len(self._attempted)}.jpg"
        self._attempted.append(name)
        with httpx.Client(base_url=self.stack.base_url, timeout=180) as http:
            answer = self.send(http, name)
        if answer.status_code == 202:
            self.acknowledged[name] = answer.json()["id"]
        return answer

    def send(self, http: httpx.Client, name: str) -> httpx.Response:
        """Send the request with this name, which is also its idempotency key."""
        files = {"file": (name, titled(self._picture, name))}
        return http.post("/api/jobs", files=files, data={"steps": self._steps}, headers={"Idempotency-Key": name})

    def _client(self) -> None:
        with httpx.Client(base_url=self.stack.base_url, timeout=30) as http:
            while not self._stopped.is_set():
                try:
                    name = self._left.popleft()
                except IndexError:
                    return
                self._attempted.append(name)
                self._request(http, name)
                self._stopped.wait(self.pause)

    def _request(self, http: httpx.Client, name: str) -> None:
        """Repeat one request until it is accepted or refused."""
        deadline = time.monotonic() + self._timeout
        while time.monotonic() < deadline and not self._stopped.is_set():
            pause = 0.3
            try:
                answer = self.send(http, name)
            except httpx.TransportError as error:
                self.answers[type(error).__name__] += 1
            else:
                self.answers[str(answer.status_code)] += 1
                if answer.status_code == 202:
                    self.acknowledged[name] = answer.json()["id"]
                    return
                # Until the application runs, the proxy of Ray Serve answers 404, but not as application/problem+json.
                starting = answer.status_code == 404 and "problem" not in answer.headers["content-type"]
                if answer.status_code < 500 and answer.status_code not in (408, 409, 429) and not starting:
                    self.refused.append(answer.text)
                    return
                pause = min(5.0, float(answer.headers.get("retry-after", pause)))
            self._stopped.wait(pause)

    def _check(self, *, stopped: bool) -> Report:
        rows = self.audit.jobs(self.prefix)
        report = Report(attempted=len(self._attempted), acknowledged=len(self.acknowledged))
        unexpected = self.audit.other_jobs(self.prefix, self.since) + sorted(rows.keys() - set(self._attempted))
        report.unexpected = len(unexpected)
        report.problems += [f"unexpected: {job}" for job in unexpected]
        with Api(self.stack.base_url) as api:
            for name, job_id in self.acknowledged.items():
                loss = self._loss(api, rows.get(name, []), job_id)
                report.ok += loss is None
                report.lost += loss is not None
                report.problems += [f"lost: {name} {loss}"] if loss else []
        forbidden = self.audit.forbidden_moves([job.id for jobs in rows.values() for job in jobs], stopped=stopped)
        for name, jobs in rows.items():
            found = [move for job in jobs for move in forbidden.get(job.id, [])]
            found += [f"{len(jobs)} jobs"] if len(jobs) > 1 else []
            report.duplicated += bool(found)
            report.problems += [f"duplicated: {name} {'; '.join(found)}"] if found else []
            report.recovered += name not in self.acknowledged and any(job.state == "succeeded" for job in jobs)
        return report

    def _loss(self, api: Api, jobs: list[JobRow], job_id: str) -> str | None:
        """Return a text that says what is wrong with an acknowledged job, or None if nothing is wrong."""
        job = next((job for job in jobs if job.id == job_id), None)
        if job is None:
            return f"{job_id} does not exist"
        if job.state != "succeeded":
            return f"{job} errors={self.audit.errors(job_id)}"
        for name, step in api.read({"id": job_id})["steps"].items():
            if sha256(step["artifact"]["url"]) != step["artifact"]["sha256"]:
                return f"{job_id}: the artifact of {name} is missing or has changed"
        return None

    def _attempts(self) -> dict[int, int]:
        return dict(sorted(collections.Counter(job.attempt for job in self.jobs()).items()))
