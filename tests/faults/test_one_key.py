"""Many clients send the same idempotency key at once. Only one job is made, even if Redis loses its data."""

from __future__ import annotations

import random
import secrets
import threading
import time

import httpx
import pytest
import redis
from nemesis import every
from workload import photo, titled

pytestmark = pytest.mark.slow

CLIENTS, KEYS = 100, 20
SMALL = photo(160, 120)


def same_for_all(name: str) -> tuple[bytes, dict[str, str]]:
    """Return the body and the headers of a request. All clients send the same bytes.

    If each of a hundred clients built its own request, that would take too much time of this machine.
    """
    parts = {"files": {"file": (name, titled(SMALL, name))}, "data": {"operations": '["webp"]'}}
    request = httpx.Request("POST", "http://x", headers={"Idempotency-Key": name}, **parts)
    return request.read(), {key: request.headers[key] for key in ("content-type", "idempotency-key")}


def test_a_hundred_clients_with_one_key_get_one_job_although_redis_is_flushed(stack, audit):
    prefix = f"w{secrets.token_hex(4)}"
    requests = [same_for_all(f"{prefix}-{number}.jpg") for number in range(KEYS)]
    starts = [threading.Barrier(CLIENTS) for _ in range(KEYS)]
    answers: list[dict[str, int]] = [{} for _ in range(KEYS)]
    began = time.monotonic()

    def client(index: int) -> None:
        # Each client has its own address, because a client with one address may not open a hundred connections.
        transport = httpx.HTTPTransport(local_address=f"127.0.1.{index + 1}")
        with httpx.Client(base_url=stack.base_url, transport=transport, timeout=120) as http:
            for number, (start, (body, headers)) in enumerate(zip(starts, requests, strict=True)):
                start.wait(120)
                while (answer := http.post("/api/jobs", content=body, headers=headers)).status_code == 409:
                    # The pause is random. Of the clients that come back together, all except one get a 409 again.
                    time.sleep(float(answer.headers["retry-after"]) * random.uniform(1, 2))
                assert answer.status_code == 202, answer.text
                job = answer.json()["id"]
                answers[number][job] = answers[number].get(job, 0) + 1

    with redis.Redis.from_url(stack.env["PIXTOOLS_REDIS_URL"]) as store, every(0.3, store.flushall):
        threads = [threading.Thread(target=client, args=(index,)) for index in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    rows = audit.query("SELECT count(*) FROM job WHERE source_name ~ %s", [f"^{prefix}-"])[0][0]
    print(f"\none key, {CLIENTS} clients x {KEYS} keys: {rows} jobs after {time.monotonic() - began:.0f} s")
    assert rows == KEYS
    assert [sum(jobs.values()) for jobs in answers] == [CLIENTS] * KEYS
    assert [len(jobs) for jobs in answers] == [1] * KEYS
