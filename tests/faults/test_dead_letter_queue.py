"""The dead-letter queue dies with redrives to do: what it acknowledged was written, and is done when it is back."""

from __future__ import annotations

import time

import pytest
from api import Api
from stacks import running
from victims import find
from workload import PHOTO, titled

pytestmark = pytest.mark.slow

LETTERS, RATE = 12, 2.0
BROKEN = PHOTO[: len(PHOTO) // 2]


def letters(api: Api, state: str) -> list[dict]:
    answer = api.http.get("/api/dead-letters", params={"state": state, "limit": 100})
    assert answer.status_code == 200, answer.text
    return answer.json()["dead_letters"]


def test_acknowledged_redrives_outlive_the_queue_and_keep_to_its_rate(open_folder):
    with running(open_folder / "queue", PIXTOOLS_REDRIVES_PER_S=str(RATE)) as stack, Api(stack.base_url) as api:
        steps = {"web": {"op": "webp", "input": "source"}}
        jobs = [api.submit(f"{n}.jpg", titled(BROKEN, f"dead {n}"), steps) for n in range(LETTERS)]
        for job in jobs:
            assert api.wait(job)["state"] == "failed"
        assert len(letters(api, "waiting")) == LETTERS

        answer = api.http.post("/api/dead-letters/redrive", json={"code": "corrupt_image"})
        began = time.monotonic()
        find(stack, "ray::DeadLetterQueue")[0].kill()
        assert (answer.status_code, answer.json()) == (202, {"dead_letters": LETTERS})
        assert len(letters(api, "redriving")) > LETTERS // 2  # most of it was still to do

        while (done := len(letters(api, "redriven"))) < LETTERS:
            assert time.monotonic() - began < 60, done
            time.sleep(0.2)
        took = time.monotonic() - began
        print(f"\nredriven={LETTERS} took_s={took:.1f} rate={LETTERS / took:.2f}/s")
        assert took >= (LETTERS - 2) / RATE
        while len(letters(api, "waiting")) < LETTERS:  # each failed again, once
            assert time.monotonic() - began < 120
            time.sleep(0.2)
        assert {api.read(job)["steps"]["web"]["attempt"] for job in jobs} == {2}
