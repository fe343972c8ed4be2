"""A denoiser replica is killed while it denoises many pictures. Small pictures compete with large pictures."""

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
        assert running, "no picture was being denoised at the kill"
        assert [job["state"] for job in ended] == ["succeeded"] * 12
        assert {job["steps"]["clean"]["attempt"] for job in ended} == {1}, "a killed replica counts as no attempt"
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
    with Api(stack.base_url) as api:
        large = submit(api, [LARGE] * 6, seed=300)
        others = [
            api.submit(f"{at}.png", noisy(SMALL, 400 + at), {"web": {"op": "webp", "input": "source"}})
            for at in range(10)
        ]

        ended = in_order_of_their_ends(api, [*large, *others])

    assert {job["id"] for job in ended[:10]} == {job["id"] for job in others}
