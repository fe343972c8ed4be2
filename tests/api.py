"""A small client of the HTTP API, as a user would write it."""

from __future__ import annotations

import json
import time
from typing import Any, Self

import httpx

ENDED = {"succeeded", "partial", "failed", "cancelled", "expired"}


class Api:
    """A client of the HTTP API at `base_url`. Each method except `post` fails if the answer is an error."""

    def __init__(self, base_url: str, address: str | None = None) -> None:
        """If given, connect from this `address`. The service counts each address as one client."""
        self.http = httpx.Client(base_url=base_url, timeout=60, transport=httpx.HTTPTransport(local_address=address))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def post(self, name: str, data: bytes, *, key: str | None = None, **fields: str) -> httpx.Response:
        """Send one image with these form fields, and return the response, even if it is an error."""
        headers = {"Idempotency-Key": key} if key else {}
        return self.http.post("/api/jobs", files={"file": (name, data)}, data=fields, headers=headers)

    def submit(self, name: str, data: bytes, steps: dict[str, Any], *, key: str | None = None) -> dict[str, Any]:
        """Submit one image with steps, and return the new job."""
        answer = self.post(name, data, key=key, steps=json.dumps(steps))
        assert answer.status_code == 202, answer.text
        assert answer.headers["location"] == f"/api/jobs/{answer.json()['id']}"
        return answer.json()

    def read(self, job: dict[str, Any]) -> dict[str, Any]:
        """Return the job as it is now."""
        answer = self.http.get(f"/api/jobs/{job['id']}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def wait(self, job: dict[str, Any], timeout: float = 120) -> dict[str, Any]:
        """Wait until the job has ended, and return it. Fails after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while (job := self.read(job))["state"] not in ENDED:
            assert time.monotonic() < deadline, job
            time.sleep(0.1)
        return job

    def download(self, job: dict[str, Any], step: str) -> bytes:
        """Return the file that a step of a job made."""
        artifact = job["steps"][step]["artifact"]
        answer = httpx.get(artifact["url"], timeout=60)
        assert answer.status_code == 200, answer.text
        assert len(answer.content) == artifact["bytes"]
        return answer.content
