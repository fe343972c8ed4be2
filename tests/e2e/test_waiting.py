"""One request submits a photo and gets its results. All requests pass through the HTTP proxy of the service."""

from __future__ import annotations

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sideways import sideways_photo

README = Path(__file__).parents[2] / "README.md"
WEB = {"web": {"op": "webp", "input": "source"}}
SLOW = {"slow": {"op": "avif", "input": "source", "speed": 0}}
WAIT = {"Prefer": "wait=60"}


def submit(api, name: str, photo: bytes, steps: dict, prefer: str):
    form = {"files": {"file": (name, photo)}, "data": {"steps": json.dumps(steps)}}
    return api.http.post("/api/jobs", **form, headers={"Prefer": prefer}, timeout=90)


def test_one_request_submits_a_photo_and_gets_the_results(api):
    answer = submit(api, "wait.jpg", sideways_photo(600, 400, seed=1301), WEB, "wait=60")
    assert (answer.status_code, answer.headers["preference-applied"]) == (202, "wait=60")
    assert answer.json()["state"] == "succeeded"
    assert api.download(answer.json(), "web")[8:12] == b"WEBP"


def test_after_the_time_the_job_is_still_running_and_a_read_waits_for_its_end(api):
    job = submit(api, "slow.jpg", sideways_photo(600, 400, seed=1302), SLOW, "wait=0").json()
    assert job["state"] in ("queued", "running")

    ended = api.http.get(f"/api/jobs/{job['id']}", headers=WAIT, timeout=90)
    assert ended.json()["state"] == "succeeded"
    again = api.http.get(f"/api/jobs/{job['id']}", headers={"If-None-Match": ended.headers["etag"]})
    # If a new minute has begun, the download URLs are new.
    assert (
        again.status_code == 304
        or again.json()["steps"]["slow"]["artifact"] != ended.json()["steps"]["slow"]["artifact"]
    )


def test_clients_that_wait_do_not_take_the_places_of_other_requests(api):
    photo = sideways_photo(3000, 2000, seed=1303)
    jobs = [api.submit(f"busy-{number}.jpg", photo, {f"s{number}": SLOW["slow"]}) for number in range(2)]
    paths = [f"/api/jobs/{job['id']}" for job in jobs]
    with ThreadPoolExecutor(30) as threads:
        waiting = [
            threads.submit(api.http.get, paths[number % 2], headers={"Prefer": "wait=8"}, timeout=90)
            for number in range(30)
        ]
        time.sleep(2)
        assert all(api.http.get(path).status_code == 200 for path in paths * 5)
        answers = [future.result() for future in waiting]
    assert {answer.status_code for answer in answers} == {200}
    assert sum("preference-applied" in answer.headers for answer in answers) == 20  # PIXTOOLS_MAX_CLIENT_STREAMS
    for path in paths:
        api.http.post(f"{path}/cancel").raise_for_status()


def test_the_python_example_of_the_readme_runs(stack, tmp_path, monkeypatch, capsys):
    example = re.search("```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)[1]
    monkeypatch.chdir(tmp_path)
    Path("photo.jpg").write_bytes(sideways_photo(600, 400, seed=1304))

    names = {}
    exec(example.replace("http://127.0.0.1:8000", stack.base_url), names)
    names["api"].close()

    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[:2] for line in lines] == [["webp", "succeeded"], ["avif", "succeeded"]]
    assert all(line[2].startswith("http://") for line in lines)


def test_a_step_that_two_jobs_ask_for_at_once_runs_once(api):
    photo = sideways_photo(1500, 1000, seed=1304)
    shared = shared_steps(api)
    first = api.submit("first.jpg", photo, SLOW)
    second = api.submit("second.jpg", photo, {"same": SLOW["slow"], "twin": SLOW["slow"], **WEB})

    first, second = api.wait(first), api.wait(second)

    assert (first["state"], second["state"]) == ("succeeded", "succeeded")
    assert not first["steps"]["slow"]["cached"]
    cached = {name for name, step in second["steps"].items() if step["cached"]}
    assert cached == {"same", "twin"}
    assert api.download(second, "same") == api.download(first, "slow")
    assert shared_steps(api) - shared == 2


def shared_steps(api) -> int:
    """Return how many steps did not run, because the same step was running."""
    return sum(dispatcher["shared_steps"] for dispatcher in api.http.get("/api/health").json()["dispatchers"])
