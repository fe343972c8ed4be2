"""Webhooks of a running service: registered, sent, verified, failed, redriven, and received by our own command."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from images import photo, saved
from receivers import receiver, status
from standardwebhooks.webhooks import Webhook

from pixtools.local.ports import free_port

PIXTOOLS = Path(sys.executable).with_name("pixtools")
PICTURE = saved(photo(64, 48), "PNG")
STEPS = {"web": {"op": "webp", "input": "source"}}


@pytest.fixture
def registered(api):
    """A function that registers an endpoint. The endpoints are deleted at the end of the test."""
    made = []

    def register(url: str, **fields: Any) -> dict[str, Any]:
        answer = api.http.post("/api/webhooks", json={"url": url} | fields)
        assert answer.status_code == 201, answer.text
        made.append(answer.json()["id"])
        return answer.json()

    yield register
    for each in made:
        api.http.delete(f"/api/webhooks/{each}")


def until(condition: Callable[[], Any], within_s: float = 60) -> Any:
    deadline = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


def read(api, path: str) -> dict[str, Any]:
    answer = api.http.get(path)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_an_endpoint_gets_a_test_and_the_end_of_a_job(api, registered):
    with receiver() as there:
        endpoint = registered(there.url, include_urls=True)
        test = api.http.post(f"/api/webhooks/{endpoint['id']}/test").headers["location"]
        until(lambda: read(api, test)["state"] == "delivered")
        job = api.wait(api.submit("a.png", PICTURE, STEPS))
        until(lambda: len(there.received) == 2)

    verifier = Webhook(endpoint["secret"])
    first, second = (verifier.verify(each.body, each.headers) for each in there.received)
    assert (first["type"], second["type"]) == ("webhook.test", "job.succeeded")
    assert second["data"]["job_id"] == job["id"]
    assert second["data"]["steps"] == {"web": {"op": "webp", "state": "succeeded", "error": None}}
    assert second["data"]["urls"].keys() == {"web"}
    (delivery, _) = read(api, f"/api/deliveries?webhook={endpoint['id']}")["deliveries"]
    until(lambda: read(api, f"/api/deliveries/{delivery['id']}")["state"] == "delivered")
    (attempt,) = read(api, f"/api/deliveries/{delivery['id']}")["history"]
    assert attempt["status"] == 204


def test_the_webhook_url_of_a_job_that_is_gone_becomes_a_dead_letter_and_can_be_redriven(api):
    with receiver(status(410)) as there:
        answer = api.post("b.png", PICTURE, steps=json.dumps(STEPS), webhook_url=there.url)
        job = api.wait(answer.json())
        assert job["webhook_url"] == there.url
        letters = until(lambda: read(api, f"/api/dead-letters?job={job['id']}")["dead_letters"])
        there.answer = status(204)
        redriven = subprocess.run(
            [PIXTOOLS, "dead-letters", "--url", str(api.http.base_url), "redrive", letters[0]["id"]],
            check=True,
            capture_output=True,
            text=True,
        )
        until(lambda: len(there.received) == 2)

    assert (letters[0]["kind"], letters[0]["url"]) == ("delivery", there.url)
    assert redriven.stdout == "To be redriven: 1.\n"
    assert len(set(there.ids)) == 1
    assert until(lambda: read(api, f"/api/deliveries?job={job['id']}&state=delivered")["deliveries"])
    assert api.read(job)["state"] == "succeeded"


def test_the_command_receives_and_verifies_webhooks(api, registered):
    port = free_port()
    endpoint = registered(f"http://127.0.0.1:{port}/")
    command = subprocess.Popen(
        [PIXTOOLS, "webhooks", "listen", "--port", str(port), "--secret", endpoint["secret"]],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert f"http://127.0.0.1:{port}/" in command.stdout.readline()
        test = api.http.post(f"/api/webhooks/{endpoint['id']}/test").headers["location"]
        until(lambda: read(api, test)["state"] == "delivered")
        assert "webhook.test  signature: valid" in command.stdout.readline()
    finally:
        command.terminate()
        command.wait(10)
        command.stdout.close()
