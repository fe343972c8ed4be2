"""Clients that submit jobs while the service is being hurt, and the check of what came of each request.

The check reports the fields of Jepsen's queue test:

    attempted     requests, each with an idempotency key of its own, however often it was sent
    acknowledged  those that were answered 202 in the end
    ok            acknowledged jobs that succeeded and whose artifacts are in S3 with the hash that the API says
    lost          acknowledged jobs that did not
    unexpected    jobs in the database that no request of ours explains
    duplicated    keys with more than one job, and jobs that ended twice or were moved out of `running` by a
                  connection that did not hold them
    recovered     requests never acknowledged whose job is there and succeeded
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
from audit import ENDED, Audit, Kept
from PIL import Image

WEBP_AND_ZIP = {
    "web": {"op": "webp", "input": "source"},
    "small": {"op": "avif", "input": "source", "speed": 7},
    "all": {"op": "zip", "input": ["web", "small"]},
}
"""Some 0.3 s of one core."""


def one_avif(speed: int) -> dict[str, Any]:
    """Return one step, which takes at most 0.6 s of a core at speed 6, and eight times as much at speed 3."""
    return {"only": {"op": "avif", "input": "source", "speed": speed}}


def photo(width: int = 1280, height: int = 960) -> bytes:
    out = io.BytesIO()
    noise = Image.fromarray(np.random.default_rng(7).integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8))
    noise.resize((width, height), Image.Resampling.BICUBIC).save(out, "JPEG", quality=90)
    return out.getvalue()


PHOTO = photo()


def titled(jpeg: bytes, title: str) -> bytes:
    """Return the picture with a comment, so that no work on it was done before."""
    comment = title.encode()
    return jpeg[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + jpeg[2:]


def sha256(url: str) -> str | None:
    """Return the digest of what is there, if it can be read to its end."""
    try:
        answer = httpx.get(url, timeout=60)
    except httpx.TransportError:
        return None
    return hashlib.sha256(answer.content).hexdigest() if answer.is_success else None


@dataclass
class Report:
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
        return self.lost == self.unexpected == self.duplicated == 0 and self.ok == self.acknowledged


class Workload:
    """Some threads that submit jobs by HTTP, each as often as it takes; leaving it makes them give up."""

    def __init__(
        self, stack, audit, *, jobs, clients=4, steps=None, picture=PHOTO, pause=0.0, patience=120.0,
    ) -> None:  # fmt: skip
        self.stack = stack
        self.audit: Audit = audit
        self.prefix = f"w{secrets.token_hex(4)}"
        self.since = audit.now()
        self.acknowledged: dict[str, str] = {}  # the job of each request, by its name
        self.answers: collections.Counter[str] = collections.Counter()
        self.refused: list[str] = []
        self._steps = json.dumps(steps or WEBP_AND_ZIP)
        self._picture = picture
        self._pause = pause
        self._patience = patience
        self._left = collections.deque(f"{self.prefix}-{number}.jpg" for number in range(jobs))
        self._attempted: list[str] = []
        self._leave = threading.Event()
        self._threads = [threading.Thread(target=self._client) for _ in range(clients)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.give_up()

    def give_up(self) -> None:
        """Have the clients leave, whether or not they were answered."""
        self._leave.set()
        self.join()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def jobs(self) -> list[Kept]:
        return [job for jobs in self.audit.jobs(self.prefix).values() for job in jobs]

    def count(self, *states: str) -> int:
        return sum(job.state in states for job in self.jobs())

    def wait_until(self, states: tuple[str, ...], count: int, patience: float = 120) -> None:
        """Wait until so many jobs are in one of these states."""
        deadline = time.monotonic() + patience
        while self.count(*states) < count:
            assert time.monotonic() < deadline, (self.jobs(), self.answers)
            time.sleep(0.05)

    def wait_for_work(self) -> tuple[str, str]:
        """Wait until a step is at work; return its dispatcher's name and its key."""
        statement = """
            SELECT dispatcher, key FROM job JOIN step ON job_id = id
            WHERE source_name ~ %s AND step.state = 'running'
        """
        return self.audit.wait(statement, [f"^{self.prefix}-"])[0]

    def send_all_again(self) -> None:
        """Send each request once more that was acknowledged, as a client that lost the answer does."""
        with httpx.Client(base_url=self.stack.base_url, timeout=30) as http:
            for name in self.acknowledged:
                assert self.send(http, name).status_code == 202

    def finish(self, title: str, *, patience: float = 180, stopped: bool = False) -> Report:
        """Wait until all is done, or for as long as `patience`; check it, and print the report."""
        self.join()
        deadline = time.monotonic() + patience
        while self.count(*ENDED) < len(self.jobs()) and time.monotonic() < deadline:
            time.sleep(0.2)
        time.sleep(1)  # a zombie may still have something to say
        report = self._check(stopped=stopped)
        print(f"\n{title}: {report} answers={dict(self.answers)} attempts={self._attempts()}")
        for problem in report.problems:
            print(f"  {problem}")
        assert not self.refused, self.refused
        return report

    def send_once(self) -> httpx.Response:
        """Send one more request, and return its first answer."""
        name = f"{self.prefix}-once-{len(self._attempted)}.jpg"
        self._attempted.append(name)
        with httpx.Client(base_url=self.stack.base_url, timeout=180) as http:
            answer = self.send(http, name)
        if answer.status_code == 202:
            self.acknowledged[name] = answer.json()["id"]
        return answer

    def send(self, http: httpx.Client, name: str) -> httpx.Response:
        files = {"file": (name, titled(self._picture, name))}
        return http.post("/api/jobs", files=files, data={"steps": self._steps}, headers={"Idempotency-Key": name})

    def _client(self) -> None:
        with httpx.Client(base_url=self.stack.base_url, timeout=30) as http:
            while not self._leave.is_set():
                try:
                    name = self._left.popleft()
                except IndexError:
                    return
                self._attempted.append(name)
                self._request(http, name)
                self._leave.wait(self._pause)

    def _request(self, http: httpx.Client, name: str) -> None:
        """Send one request until it is answered for good."""
        deadline = time.monotonic() + self._patience
        while time.monotonic() < deadline and not self._leave.is_set():
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
                # Serve's own proxy says 404, and not by a problem, until the application is there.
                starting = answer.status_code == 404 and "problem" not in answer.headers["content-type"]
                if answer.status_code < 500 and answer.status_code != 409 and not starting:
                    self.refused.append(answer.text)
                    return
                pause = min(5.0, float(answer.headers.get("retry-after", pause)))
            self._leave.wait(pause)

    def _check(self, *, stopped: bool) -> Report:
        kept = self.audit.jobs(self.prefix)
        report = Report(attempted=len(self._attempted), acknowledged=len(self.acknowledged))
        strangers = self.audit.strangers(self.prefix, self.since) + sorted(kept.keys() - set(self._attempted))
        report.unexpected = len(strangers)
        report.problems += [f"unexpected: {stranger}" for stranger in strangers]
        with Api(self.stack.base_url) as api:
            for name, job_id in self.acknowledged.items():
                trouble = self._trouble(api, kept.get(name, []), job_id)
                report.ok += trouble is None
                report.lost += trouble is not None
                report.problems += [f"lost: {name} {trouble}"] if trouble else []
        irregular = self.audit.irregular([job.id for jobs in kept.values() for job in jobs], stopped=stopped)
        for name, jobs in kept.items():
            odd = [what for job in jobs for what in irregular.get(job.id, [])]
            odd += [f"{len(jobs)} jobs"] if len(jobs) > 1 else []
            report.duplicated += bool(odd)
            report.problems += [f"duplicated: {name} {'; '.join(odd)}"] if odd else []
            report.recovered += name not in self.acknowledged and any(job.state == "succeeded" for job in jobs)
        return report

    def _trouble(self, api: Api, jobs: list[Kept], job_id: str) -> str | None:
        """Say what an acknowledged job lacks."""
        job = next((job for job in jobs if job.id == job_id), None)
        if job is None:
            return f"{job_id} is not there"
        if job.state != "succeeded":
            return f"{job} errors={self.audit.errors(job_id)}"
        for name, step in api.read({"id": job_id})["steps"].items():
            if sha256(step["artifact"]["url"]) != step["artifact"]["sha256"]:
                return f"{job_id}: the artifact of {name} is not what it was"
        return None

    def _attempts(self) -> dict[int, int]:
        return dict(sorted(collections.Counter(job.attempt for job in self.jobs()).items()))
