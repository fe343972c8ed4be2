"""A client of the HTTP API, as small as a user's own would be."""

from __future__ import annotations

import json
import time
from typing import Any, Self

import httpx

ENDED = {"succeeded", "partial", "failed", "cancelled", "expired"}


class Api:
    def __init__(self, base_url: str) -> None:
        self.http = httpx.Client(base_url=base_url, timeout=60)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def post(self, name: str, data: bytes, *, key: str | None = None, **fields: str) -> httpx.Response:
        """Send one image with form fields as they are."""
        headers = {"Idempotency-Key": key} if key else {}
        return self.http.post("/api/jobs", files={"file": (name, data)}, data=fields, headers=headers)

    def submit(self, name: str, data: bytes, steps: dict[str, Any], *, key: str | None = None) -> dict[str, Any]:
        answer = self.post(name, data, key=key, steps=json.dumps(steps))
        assert answer.status_code == 202, answer.text
        assert answer.headers["location"] == f"/api/jobs/{answer.json()['id']}"
        return answer.json()

    def read(self, job: dict[str, Any]) -> dict[str, Any]:
        answer = self.http.get(f"/api/jobs/{job['id']}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def wait(self, job: dict[str, Any], patience: float = 120) -> dict[str, Any]:
        """Follow a job to its end."""
        deadline = time.monotonic() + patience
        while (job := self.read(job))["state"] not in ENDED:
            assert time.monotonic() < deadline, job
            time.sleep(0.1)
        return job

    def download(self, job: dict[str, Any], step: str) -> bytes:
        artifact = job["steps"][step]["artifact"]
        answer = httpx.get(artifact["url"], timeout=60)
        assert answer.status_code == 200, answer.text
        assert len(answer.content) == artifact["bytes"]
        return answer.content
