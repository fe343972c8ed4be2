"""List, redrive, discard and count dead letters through the API and the command line."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from pathlib import Path

import httpx
import pytest
from sideways import sideways_photo

PIXTOOLS = Path(sys.executable).with_name("pixtools")

STEPS = {
    "web": {"op": "webp", "input": "source"},
    "exif": {"op": "metadata", "input": "source"},
    "all": {"op": "zip", "input": ["web"]},
}


def broken(seed: int) -> bytes:
    """Return the first two thirds of a photo. The header is valid, but the pixels cannot be decoded."""
    photo = sideways_photo(300, 200, seed=seed)
    return photo[: len(photo) * 2 // 3]


@pytest.fixture
def failed(api) -> dict:
    """A job that has ended. One of its steps failed permanently."""
    return api.wait(api.submit("broken.jpg", broken(time.monotonic_ns()), STEPS))


def letters(api, **query: str) -> list[dict]:
    answer = api.http.get("/api/dead-letters", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()["dead_letters"]


def until(read, timeout: float = 60):
    """Call `read` until its result is true, and return that result. Fail after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not (found := read()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


def test_a_step_that_cannot_succeed_is_listed_with_its_error_and_history(api, failed):
    assert {name: step["state"] for name, step in failed["steps"].items()} == {
        "web": "failed", "exif": "succeeded", "all": "skipped",
    }  # fmt: skip

    (letter,) = letters(api, job=failed["id"])
    assert (letter["step"], letter["op"], letter["state"], letter["attempt"]) == ("web", "webp", "waiting", 1)
    assert letter["error"]["code"] == "corrupt_image"
    assert letter["source_name"] == "broken.jpg"
    assert [(event["what"], event["attempt"]) for event in letter["history"]] == [("failed", 1), ("buried", 1)]
    assert letters(api, job=failed["id"], op="avif") == []
    assert letters(api, job=failed["id"], code="corrupt_image", op="webp") == [letter]


def test_a_redriven_step_runs_again_and_the_steps_that_read_it_wait_again(api, failed):
    (letter,) = letters(api, job=failed["id"])
    answer = api.http.post(f"/api/dead-letters/{letter['id']}/redrive")
    assert (answer.status_code, answer.json()) == (202, {"dead_letters": 1})

    (again,) = until(lambda: [found for found in letters(api, job=failed["id"]) if found["id"] != letter["id"]])
    assert [event["what"] for event in again["history"]] == ["failed", "buried", "redriven", "failed", "buried"]
    assert again["attempt"] == 2
    (first,) = letters(api, job=failed["id"], state="redriven")
    assert first["id"] == letter["id"]
    answer = api.http.post(f"/api/dead-letters/{letter['id']}/redrive")
    assert (answer.status_code, answer.json()["code"]) == (409, "dead_letter_closed")
    job = until(lambda: (now := api.read(failed))["state"] == "partial" and now)
    assert job["steps"]["all"]["state"] == "skipped"
    assert job["steps"]["exif"]["attempt"] == 1  # a step that has succeeded does not run again


def test_a_retry_redrives_all_dead_letters_of_a_job(api, failed):
    answer = api.http.post(f"/api/jobs/{failed['id']}/retry")
    assert (answer.status_code, answer.json()["id"]) == (202, failed["id"])
    until(lambda: letters(api, job=failed["id"], state="redriven"))
    until(lambda: letters(api, job=failed["id"], state="waiting"))

    assert api.http.delete(f"/api/dead-letters/{letters(api, job=failed['id'])[0]['id']}").status_code == 204
    answer = api.http.post(f"/api/jobs/{failed['id']}/retry")
    assert (answer.status_code, answer.json()["code"]) == (409, "nothing_to_retry")
    answer = api.http.post(f"/api/jobs/{uuid.uuid4()}/retry")
    assert answer.status_code == 404


def test_a_discarded_letter_is_kept_and_closed(api, failed):
    (letter,) = letters(api, job=failed["id"])
    assert api.http.delete(f"/api/dead-letters/{letter['id']}").status_code == 204
    assert letters(api, job=failed["id"]) == []
    (kept,) = letters(api, job=failed["id"], state="discarded")
    assert [event["what"] for event in kept["history"]] == ["failed", "buried", "discarded"]
    answer = api.http.delete(f"/api/dead-letters/{letter['id']}")
    assert (answer.status_code, answer.json()["code"]) == (409, "dead_letter_closed")
    assert api.http.delete(f"/api/dead-letters/{uuid.uuid4()}").status_code == 404


def test_a_selection_with_an_unknown_field_is_refused(api, failed):
    answer = api.http.post("/api/dead-letters/discard", json={"jop": failed["id"]})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/body/jop")
    assert len(letters(api, job=failed["id"])) == 1


@pytest.mark.parametrize("selection", [{}, {"job": None}, {"job": str(uuid.uuid4()), "all": True}, {"op": "wepb"}])
def test_a_selection_that_may_be_a_mistake_is_refused(api, failed, selection):
    for decision in ("redrive", "discard"):
        answer = api.http.post(f"/api/dead-letters/{decision}", json=selection)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert len(letters(api, job=failed["id"])) == 1


def pixtools(api, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [PIXTOOLS, "dead-letters", "--url", str(api.http.base_url), *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


def test_the_command_line_lists_redrives_and_discards(api, failed):
    job = failed["id"]
    listed = pixtools(api, "list", "--job", job)
    assert "broken.jpg, step web (webp), tries: 1" in listed.stdout
    (letter,) = [json.loads(line) for line in pixtools(api, "list", "--job", job, "--json").stdout.splitlines()]
    assert letter == letters(api, job=job)[0]

    assert pixtools(api, "redrive", letter["id"]).stdout == "To be redriven: 1.\n"
    until(lambda: letters(api, job=job, state="waiting"))
    closed = pixtools(api, "redrive", letter["id"])
    assert (closed.returncode, closed.stdout) == (1, "")
    assert "is redriven." in closed.stderr
    assert pixtools(api, "discard", "--job", job, "--code", "corrupt_image").stdout == "Discarded: 1.\n"
    assert pixtools(api, "list", "--job", job).stdout == "No dead letters found.\n"
    assert "Use only one of these three ways" in pixtools(api, "discard").stderr
    assert "Use only one of these three ways" in pixtools(api, "discard", letter["id"], "--all").stderr


def test_dead_letters_are_counted_in_the_metrics(api, stack, failed):
    before = until(lambda: "pixtools_dead_letters_total" in (now := metrics(stack)) and now)
    api.http.post("/api/dead-letters/discard", json={"job": failed["id"]}).raise_for_status()
    name = "pixtools_dead_letters_discarded_total"
    until(lambda: metrics(stack).get(name, 0) > before.get(name, 0))


def metrics(stack) -> dict[str, float]:
    """Return the metrics of PixTools. Each value is the sum over all the addresses that Prometheus would read."""
    found: dict[str, float] = {}
    for targets in json.loads((stack.ray_folder / "prom_metrics_service_discovery.json").read_text()):
        for target in targets["targets"]:
            try:
                text = httpx.get(f"http://{target}/metrics", timeout=30).text
            except httpx.ConnectError:  # Ray may list a port on which nothing listens
                continue
            for line in text.splitlines():
                if line.startswith("ray_pixtools_"):
                    series, value = line.rsplit(" ", 1)
                    name = series.partition("{")[0].removeprefix("ray_")
                    found[name] = found.get(name, 0) + float(value)
    return found
