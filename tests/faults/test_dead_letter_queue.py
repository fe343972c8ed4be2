"""The dead-letter queue is killed while redrives are pending. It starts again and reads the redrives from Postgres."""

from __future__ import annotations

import time

import pytest
from api import Api
from stacks import running
from victims import find
from workload import PHOTO, titled

pytestmark = pytest.mark.slow

DEAD_LETTERS, RATE = 12, 2.0
BROKEN = PHOTO[: len(PHOTO) // 2]


def dead_letters(api: Api, state: str) -> list[dict]:
    answer = api.http.get("/api/dead-letters", params={"state": state, "limit": 100})
    assert answer.status_code == 200, answer.text
    return answer.json()["dead_letters"]


def test_acknowledged_redrives_survive_the_queue_and_keep_its_rate(open_folder):
    with running(open_folder / "queue", PIXTOOLS_REDRIVES_PER_S=str(RATE)) as stack, Api(stack.base_url) as api:
        steps = {"web": {"op": "webp", "input": "source"}}
        jobs = [api.submit(f"{n}.jpg", titled(BROKEN, f"dead {n}"), steps) for n in range(DEAD_LETTERS)]
        for job in jobs:
            assert api.wait(job)["state"] == "failed"
        assert len(dead_letters(api, "waiting")) == DEAD_LETTERS

        answer = api.http.post("/api/dead-letters/redrive", json={"code": "corrupt_image"})
        began = time.monotonic()
        find(stack, "ray::DeadLetterQueue")[0].kill()
        assert (answer.status_code, answer.json()) == (202, {"dead_letters": DEAD_LETTERS})
        assert len(dead_letters(api, "redriving")) > DEAD_LETTERS // 2  # most are still pending

        while (done := len(dead_letters(api, "redriven"))) < DEAD_LETTERS:
            assert time.monotonic() - began < 60, done
            time.sleep(0.2)
        seconds = time.monotonic() - began
        print(f"\nredriven={DEAD_LETTERS} took_s={seconds:.1f} rate={DEAD_LETTERS / seconds:.2f}/s")
        assert seconds >= (DEAD_LETTERS - 2) / RATE
        while len(dead_letters(api, "waiting")) < DEAD_LETTERS:  # each step has failed once more
            assert time.monotonic() - began < 120
            time.sleep(0.2)
        assert {api.read(job)["steps"]["web"]["attempt"] for job in jobs} == {2}
