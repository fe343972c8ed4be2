"""One picture needs more memory than its converter may use. It gets a dead letter, and a hundred others succeed."""

from __future__ import annotations

import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from api import Api
from service import Stack
from workload import PHOTO, photo, titled

pytestmark = pytest.mark.slow

GOOD = 100
CLIENTS = 4
STEPS = {"web": {"op": "webp", "input": "source"}}
TOO_LITTLE, ENOUGH = "250000000", "2000000000"
BOMB = photo(8000, 6000)  # 144 MB of pixels, and WebP needs three times as much


def rush(api_url: str, title: str, poison: threading.Event | None = None) -> tuple[list[str], float]:
    """Submit the good pictures. Return their final states and the 95th percentile of their times, in seconds.

    The event `poison` is set after a quarter of the pictures.
    """

    def one(number: int) -> tuple[str, float]:
        if number == GOOD // 4 and poison is not None:
            poison.set()
        with Api(api_url) as api:
            began = time.monotonic()
            job = api.wait(api.submit(f"{number}.jpg", titled(PHOTO, f"{title} {number}"), STEPS))
            return job["state"], time.monotonic() - began

    with ThreadPoolExecutor(CLIENTS) as clients:
        ended = list(clients.map(one, range(GOOD)))
    return [state for state, _ in ended], statistics.quantiles([took for _, took in ended], n=20)[-1]


def start(stack: Stack, memory: str) -> None:
    stack.extra_env["PIXTOOLS_CONVERTER_MEMORY_BYTES"] = memory
    stack.launch()
    stack.wait_until_ready()


def test_the_picture_gets_one_dead_letter_and_harms_no_other_job(new_stack):
    stack = new_stack()
    start(stack, TOO_LITTLE)
    rush(stack.base_url, "warm")
    _, without = rush(stack.base_url, "without")

    poison_due, submitted = threading.Event(), []

    def submit_bomb() -> None:
        poison_due.wait(60)
        with Api(stack.base_url) as api:
            submitted.append(api.submit("bomb.jpg", BOMB, STEPS))

    thread = threading.Thread(target=submit_bomb)
    thread.start()
    states, beside = rush(stack.base_url, "beside", poison_due)
    thread.join()
    print(f"\ngood={GOOD} ok={states.count('succeeded')} p95_without_s={without:.2f} p95_beside_s={beside:.2f}")
    assert states == ["succeeded"] * GOOD
    assert beside <= 1.5 * without

    with Api(stack.base_url) as api:
        job = api.wait(submitted[0])
        assert (job["state"], job["steps"]["web"]["error"]["code"]) == ("failed", "out_of_memory")
        (dead_letter,) = api.http.get("/api/dead-letters").json()["dead_letters"]
        print(f"dead letter: {dead_letter['error']['title']}. {dead_letter['error']['detail']}")
        assert dead_letter["job"] == job["id"]
        assert "PIXTOOLS_CONVERTER_MEMORY_BYTES" in dead_letter["error"]["detail"]

    assert stack.stop() == 0
    start(stack, ENOUGH)
    with Api(stack.base_url) as api:
        api.http.post(f"/api/dead-letters/{dead_letter['id']}/redrive").raise_for_status()
        deadline = time.monotonic() + 120
        while (job := api.read(job))["state"] != "succeeded":
            assert time.monotonic() < deadline, job
            time.sleep(0.2)
        assert job["steps"]["web"]["artifact"]["width"] == 8000
