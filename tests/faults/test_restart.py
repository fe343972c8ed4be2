"""The service is stopped with Ctrl-C and started again. Finished jobs keep their results, and running jobs continue."""

from __future__ import annotations

import io
import time

import numpy as np
import psycopg
from api import Api
from PIL import Image

SLOW = {"slow": {"op": "avif", "input": "source", "speed": 3}}


def photo(width: int, height: int) -> bytes:
    out = io.BytesIO()
    noise = Image.fromarray(np.random.default_rng(7).integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8))
    noise.resize((width, height), Image.Resampling.BICUBIC).save(out, "JPEG", quality=90)
    return out.getvalue()


def test_ctrl_c_during_a_job_counts_no_crash_and_the_next_start_serves_all_jobs(new_stack):
    stack = new_stack()
    stack.launch()
    stack.wait_until_ready()
    with Api(stack.base_url) as api:
        done = api.wait(api.submit("done.jpg", photo(160, 120), {"web": {"op": "webp", "input": "source"}}))
        running = api.submit("slow.jpg", photo(2000, 1500), SLOW)
        while api.read(running)["steps"]["slow"]["state"] != "running":
            time.sleep(0.05)
    assert stack.stop() == 0
    assert stack.processes() == []

    stack.launch()
    stack.wait_until_ready()
    with Api(stack.base_url) as api:
        ended = api.wait(running)
        assert ended["state"] == "succeeded"
        assert api.download(ended, "slow")
        listed = [job["id"] for job in api.http.get("/api/jobs").json()["jobs"]]
        assert listed == [running["id"], done["id"]]
        assert api.download(api.read(done), "web")
    with psycopg.connect(stack.env["PIXTOOLS_DATABASE_URL"]) as connection:
        (first, second) = connection.execute("SELECT attempt, crashes FROM job ORDER BY id").fetchall()
    assert first == (1, 0)
    assert second in [(1, 0), (2, 0)]  # the job finished before the stop, or returned to the queue without a crash
    assert stack.stop() == 0
