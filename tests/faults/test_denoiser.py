"""A denoiser replica is killed while it denoises, and no job fails. Small pictures do not wait for large pictures."""

from __future__ import annotations

import io
import time

import numpy as np
import pytest
from api import ENDED, Api
from images import photo, saved
from PIL import Image
from victims import DENOISER, find

HUGE, LARGE, SMALL = (2400, 1800), (1000, 700), (160, 120)
STEPS = {"clean": {"op": "denoise", "input": "source"}, "web": {"op": "webp", "input": "clean"}}


def noisy(size: tuple[int, int], seed: int) -> bytes:
    scene = photo(*size)
    array = scene + np.random.default_rng(seed).normal(0, 25, scene.shape)
    return saved(Image.fromarray(array.clip(0, 255).astype(np.uint8)), "PNG")


def submit(api: Api, sizes: list[tuple[int, int]], seed: int) -> list[dict]:
    return [api.submit(f"{at}.png", noisy(size, seed + at), STEPS) for at, size in enumerate(sizes)]


def in_order_of_their_ends(api: Api, jobs: list[dict], timeout: float = 240) -> list[dict]:
    """Wait until all jobs have ended, and return them in the order of their ends."""
    left, ended = {job["id"]: job for job in jobs}, []
    deadline = time.monotonic() + timeout
    while left:
        assert time.monotonic() < deadline, f"{len(left)} jobs have not ended"
        for job in [api.read(job) for job in left.values()]:
            if job["state"] in ENDED:
                ended.append(job)
                del left[job["id"]]
        time.sleep(0.1)
    return ended


def test_jobs_of_all_sizes_survive_a_killed_replica(stack):
    with Api(stack.base_url) as api:
        jobs = submit(api, [LARGE, LARGE, *[SMALL] * 5, (500, 300), *[SMALL] * 4], seed=100)
        (killed,) = find(stack, DENOISER, timeout=60)
        while not any(job["state"] in ENDED for job in map(api.read, jobs)):
            time.sleep(0.05)
        running = [job for job in map(api.read, jobs) if job["steps"]["clean"]["state"] == "running"]
        killed.kill()
        ended = in_order_of_their_ends(api, jobs)
        assert running, "no picture was being denoised when the replica was killed"
        assert [job["state"] for job in ended] == ["succeeded"] * 12
        assert {job["steps"]["clean"]["attempt"] for job in ended} == {1}, "the kill was counted as an attempt"
        for job in ended:
            denoised = Image.open(io.BytesIO(api.download(job, "web")))
            assert denoised.size == (job["source"]["width"], job["source"]["height"])


def test_small_pictures_end_before_large_ones_that_came_first(stack):
    with Api(stack.base_url) as api:
        api.wait(api.submit("warm.png", noisy(SMALL, 1), STEPS))
        jobs = submit(api, [HUGE, HUGE, *[SMALL] * 6], seed=200)

        ended = in_order_of_their_ends(api, jobs)

    assert [job["source"]["width"] for job in ended] == [SMALL[0]] * 6 + [HUGE[0]] * 2


@pytest.mark.slow
def test_other_jobs_end_before_large_pictures_are_denoised(stack):
    large_pictures = [noisy(HUGE, 300 + at) for at in range(4)]
    pictures = [noisy(SMALL, 400 + at) for at in range(10)]
    step = {"web": {"op": "webp", "input": "source"}}
    with Api(stack.base_url) as api:
        large = [api.submit(f"large-{at}.png", picture, STEPS) for at, picture in enumerate(large_pictures)]
        others = [api.submit(f"{at}.png", picture, step) for at, picture in enumerate(pictures)]

        in_order_of_their_ends(api, others)

        states = [api.read(job)["state"] for job in large]
        for job in large:
            api.http.post(f"/api/jobs/{job['id']}/cancel").raise_for_status()
    assert not ENDED.intersection(states), states
