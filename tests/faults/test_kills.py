"""SIGKILL in the middle of work: every accepted job ends well, and none twice."""

from __future__ import annotations

import collections
import io
import time

import numpy as np
import psutil
import psycopg
import pytest
from PIL import Image

JOBS = 20
# About a second of one core for each: slow enough to be killed in the middle.
STEPS = {
    "web": {"op": "webp", "input": "source"},
    "small": {"op": "avif", "input": "source", "speed": 6},
    "all": {"op": "zip", "input": ["web", "small"]},
}


def photo(seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    out = io.BytesIO()
    noise = Image.fromarray(rng.integers(0, 255, (150, 200, 3), dtype=np.uint8))
    noise.resize((1600, 1200), Image.Resampling.BICUBIC).save(out, "JPEG", quality=90)
    return out.getvalue()


def busiest(stack, title: str) -> psutil.Process:
    """The process of an actor, by the title that Ray gives it while it works."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for process in stack.processes():
            try:
                if "".join(process.cmdline()).startswith(title):
                    return process
            except psutil.NoSuchProcess:
                continue
        time.sleep(0.05)
    raise AssertionError(f"no process {title}")


@pytest.mark.parametrize(
    ("victim", "seed"),
    [
        pytest.param("ray::Converter.run", 100, id="a converter"),
        pytest.param("ray::Dispatcher", 200, id="the dispatcher"),
    ],
)
def test_twenty_jobs_survive_the_death_of(stack, api, victim, seed):
    jobs = [api.submit(f"{seed + n}.jpg", photo(seed + n), STEPS) for n in range(JOBS)]
    while sum(api.read(job)["state"] == "succeeded" for job in jobs) < 3:
        time.sleep(0.1)
    busiest(stack, victim).kill()
    killed = time.monotonic()
    ended = [api.wait(job, patience=180) for job in jobs]
    assert [job["state"] for job in ended] == ["succeeded"] * JOBS
    for job in ended:
        for name, step in job["steps"].items():
            assert (step["state"], step["error"]) == ("succeeded", None)
            api.download(job, name)
    versions = [job["finished_at"] for job in ended]
    time.sleep(2)
    assert [api.read(job)["finished_at"] for job in jobs] == versions, "a job ended twice"
    attempts = collections.Counter(attempt for job in ended for attempt in _attempts(stack, job))
    print(f"killed {victim}: attempts {dict(attempts)}, all done {time.monotonic() - killed:.1f} s later")
    assert max(attempts) == 2, "nothing was running when it was killed"
    assert _dead_letters(stack, [job["id"] for job in jobs]) == 0


def _attempts(stack, job) -> list[int]:
    with psycopg.connect(stack.env["PIXTOOLS_DATABASE_URL"]) as connection:
        return [row[0] for row in connection.execute("SELECT attempt FROM job WHERE id = %s", [job["id"]])]


def _dead_letters(stack, ids: list[str]) -> int:
    with psycopg.connect(stack.env["PIXTOOLS_DATABASE_URL"]) as connection:
        return connection.execute("SELECT count(*) FROM dead_letter WHERE job_id = ANY(%s::uuid[])", [ids]).fetchone()[
            0
        ]
