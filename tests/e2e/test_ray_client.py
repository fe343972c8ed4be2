"""Clients of Ray submit pictures, while users of the HTTP API go on: the command, the example, and the gateway."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from images import opened, saved, truncated_jpeg
from service import PIXTOOLS
from sideways import sideways_photo
from waits import wait_for

from pixtools.pipeline import Pipeline

EXAMPLES = Path(__file__).parents[2] / "examples"
STEPS = {"small": {"op": "resize", "input": "source", "width": 200}, "web": {"op": "webp", "input": "small"}}
PHOTOS = 200


class Client:
    """The address and the token of the Ray cluster of a service, and programs that use them."""

    def __init__(self, stack, folder):
        self.address = f"ray://127.0.0.1:{stack.ray_client_port}"
        self.token_file = stack.home / "secrets" / "ray-token"
        self.folder = folder
        self.photos, self.results = folder / "photos", folder / "results"
        self.photos.mkdir()
        self.environment = {
            name: value for name, value in stack.environment.items() if not name.startswith("PIXTOOLS_")
        }
        (folder / "steps.json").write_text(json.dumps(STEPS))

    def submit(self, *options):
        """Start `pixtools submit`."""
        command = [PIXTOOLS, "submit", self.photos, "--address", self.address, "--token-file", self.token_file]
        return self._start(*command, "--steps", self.folder / "steps.json", "--out", self.results, *options)

    def example(self):
        """Start examples/ray_client.py."""
        return self._start(sys.executable, EXAMPLES / "ray_client.py", self.address, self.photos, self.results)

    def _start(self, *command):
        environment = self.environment | {"RAY_AUTH_TOKEN_PATH": str(self.token_file)}
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def journal(self):
        """The entries of the journal."""
        path = self.results / ".pixtools-submit.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines() if line] if path.exists() else []


@pytest.fixture
def client(stack, tmp_path):
    return Client(stack, tmp_path)


def ended(process, timeout=180):
    """Wait for the end of a program. Return its exit code and what it printed."""
    out, errors = process.communicate(timeout=timeout)
    return process.returncode, out + errors


def jobs_named(api, prefix):
    """Return how many jobs each source name has."""
    names, cursor = Counter(), {}
    while True:
        page = api.http.get("/api/jobs", params={"limit": 100, **cursor}).raise_for_status().json()
        names.update(job["source"]["name"] for job in page["jobs"] if job["source"]["name"].startswith(prefix))
        if page["next"] is None:
            return names
        cursor = {"cursor": page["next"]}


def test_a_folder_is_submitted_while_http_users_go_on_and_a_killed_run_is_resumed(client, api):
    for number in range(PHOTOS):
        path = client.photos / f"{number % 3}" / f"folder-{number:03}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(sideways_photo(320, 240, seed=90_000 + number))
    stop = threading.Event()

    def use_http():
        states, number = [], 0
        while not stop.is_set():
            job = api.submit(f"http-{number}.jpg", sideways_photo(200, 160, seed=91_000 + number), STEPS)
            states.append(api.wait(job)["state"])
            number += 1
        return states

    with ThreadPoolExecutor(1) as threads:
        user = threads.submit(use_http)
        try:
            first = client.submit()
            wait_for(lambda: sum("files" in entry for entry in client.journal()) >= PHOTOS // 4)
            first.kill()
            ended(first)
            finished = {client.results / file for entry in client.journal() for file in entry.get("files", ())}
            written_at = {path: path.stat().st_mtime_ns for path in finished}
            code, output = ended(client.submit())
        finally:
            stop.set()
        states = user.result()

    assert code == 0, output
    assert f"Succeeded: {PHOTOS}. Failed: 0." in output
    assert PHOTOS // 4 <= len(finished) < PHOTOS
    assert {path: path.stat().st_mtime_ns for path in finished} == written_at  # finished pictures were left alone
    results = {path.relative_to(client.results): path for path in client.results.rglob("*.webp")}
    assert results.keys() == {Path(f"{n % 3}/folder-{n:03}-web.webp") for n in range(PHOTOS)}
    assert not list(client.results.rglob("*.part"))
    written = {entry["picture"] for entry in client.journal() if "files" in entry}
    assert len(written) == PHOTOS
    pipeline = Pipeline(STEPS)
    for number in range(0, PHOTOS, 40):
        name = f"{number % 3}/folder-{number:03}"
        expected = pipeline.run((client.photos / f"{name}.jpg").read_bytes(), f"{name}.jpg")["web"].data
        assert (client.results / f"{name}-web.webp").read_bytes() == expected
    assert opened(expected).width == 200
    # The killed run made jobs whose answers it never saw. The second run has found them by their keys.
    assert jobs_named(api, "folder-") == {f"folder-{number:03}.jpg": 1 for number in range(PHOTOS)}
    assert states
    assert set(states) == {"succeeded"}

    began = time.monotonic()
    assert ended(client.submit())[0] == 0
    assert time.monotonic() - began < 60
    assert jobs_named(api, "folder-").total() == PHOTOS  # nothing was submitted again


def test_failed_pictures_are_named_and_the_next_run_tries_them_again(client, api):
    good = sideways_photo(320, 240, seed=92_000)
    (client.photos / "good.jpg").write_bytes(good)
    (client.photos / "torn-photo.jpg").write_bytes(truncated_jpeg())
    (client.photos / "no picture.png").write_text("hello")
    (client.photos / "notes.txt").write_text("hello")

    code, output = ended(client.submit("--at-once", "2"))
    assert code == 1
    assert "Pictures in" in output
    assert ": 3. Other files: 1." in output
    assert "Succeeded: 1. Failed: 2." in output
    assert "torn-photo.jpg: Step small: The file could not be decoded" in output
    assert "no picture.png: The content of the file is not an image in a supported format." in output

    def attempts():
        jobs = api.http.get("/api/jobs").json()["jobs"]
        (job,) = [job for job in jobs if job["source"]["name"] == "torn-photo.jpg"]
        return api.read(job)["steps"]["small"]["attempt"]

    before = attempts()
    (client.photos / "no picture.png").write_bytes(sideways_photo(100, 100, seed=92_001))
    code, output = ended(client.submit())
    assert code == 1
    assert "Succeeded: 2. Failed: 1." in output
    assert sorted(path.name for path in client.results.glob("*.webp")) == ["good-web.webp", "no picture-web.webp"]
    assert attempts() > before  # the failed step ran again, in the same job
    assert jobs_named(api, "torn-photo.jpg") == {"torn-photo.jpg": 1}


def test_wrong_steps_and_wrong_addresses_are_explained(client, tmp_path):
    (client.photos / "good.jpg").write_bytes(sideways_photo(320, 240, seed=92_100))
    (tmp_path / "steps.json").write_text('{"web": {"op": "webb", "input": "source"}}')
    code, output = ended(client.submit())
    assert code == 1
    assert "good.jpg: 1 mistake in the steps. /steps/web/op: 'webb' is not an operation" in output

    client.address = "ray://127.0.0.1:9"
    code, output = ended(client.submit())
    assert code == 1
    assert "Nothing answers at ray://127.0.0.1:9" in output
    assert "Traceback" not in output

    client.address = "http://127.0.0.1:8000"
    code, output = ended(client.submit())
    assert code == 1
    assert "http://127.0.0.1:8000 is not an address of the form ray://HOST:PORT." in output


def test_a_large_file_a_part_and_two_pictures_with_one_stem(client, tmp_path):
    noise = np.random.default_rng(11).integers(0, 256, (1800, 1800, 3), np.uint8)
    (client.photos / "noise.png").write_bytes(saved(noise, "PNG", compress_level=1))
    (client.photos / "noise.jpg").write_bytes(sideways_photo(300, 200, seed=92_300))
    (tmp_path / "logo.png").write_bytes(saved(np.full((20, 20, 3), 255, np.uint8), "PNG"))
    steps = {"marked": {"op": "watermark", "input": "source", "image": "logo"}}
    (tmp_path / "steps.json").write_text(json.dumps(steps))
    code, output = ended(client.submit("--part", f"logo={tmp_path / 'logo.png'}"))
    assert code == 0, output
    large = client.results / "noise.png" / "noise-marked.png"
    assert large.stat().st_size > 8_000_000
    assert opened(large.read_bytes()).size == (1800, 1800)
    assert opened((client.results / "noise.jpg" / "noise-marked.png").read_bytes()).size == (300, 200)


def test_the_example_submits_a_folder(client):
    for number in range(3):
        (client.photos / f"example-{number}.jpg").write_bytes(sideways_photo(800, 600, seed=92_200 + number))
    for _ in range(2):  # the second time, the service knows the jobs
        code, output = ended(client.example())
        assert code == 0, output
        assert "3 of 3: example-2.jpg succeeded" in output
    for number in range(3):
        assert opened((client.results / f"example-{number}-web.webp").read_bytes()).width == 640
