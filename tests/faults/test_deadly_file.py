"""Some files kill their decoder. Each of them gets a dead letter, and the jobs of all other files succeed."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from api import Api
from stacks import running
from workload import photo, titled

pytestmark = pytest.mark.slow

DEADLY, GOOD = 5, 40
STEPS = {"web": {"op": "webp", "input": "source"}, "meta": {"op": "metadata", "input": "source"}}
SMALL = photo(320, 240)


@pytest.fixture(scope="module")
def infected(open_folder):
    """A service whose decoder crashes on certain files: see deadly/sitecustomize.py."""
    path = [str(Path(__file__).with_name("deadly")), *filter(None, [os.environ.get("PYTHONPATH")])]
    with running(open_folder / "infected", PYTHONPATH=os.pathsep.join(path)) as stack:
        yield stack


def test_each_deadly_file_gets_a_dead_letter_after_three_crashes_and_harms_no_other_job(infected):
    def one(title: str) -> dict:
        with Api(infected.base_url) as api:
            return api.wait(api.submit(f"{title}.jpg", titled(SMALL, title), STEPS), timeout=300)

    titles = [f"this file kills its decoder: {number}" for number in range(DEADLY)]
    titles += [f"good {number}" for number in range(GOOD)]
    with ThreadPoolExecutor(6) as clients:
        jobs = dict(zip(titles, clients.map(one, titles), strict=True))

    for title, job in jobs.items():
        web = job["steps"]["web"]
        if title.startswith("good"):
            assert job["state"] == "succeeded", job
        else:
            assert (job["state"], web["state"], web["error"]["code"]) == ("partial", "failed", "converter_crashed"), job
            assert job["steps"]["meta"]["state"] == "succeeded"  # this step reads only the header
    with Api(infected.base_url) as api:
        dead_letters = api.http.get("/api/dead-letters").json()["dead_letters"]
        assert sorted(letter["job"] for letter in dead_letters) == sorted(
            jobs[title]["id"] for title in titles[:DEADLY]
        )
        assert {tuple(event["what"] for event in letter["history"]) for letter in dead_letters} == {
            ("crashed", "crashed", "crashed", "buried"),
        }
        after = api.wait(api.submit("after.jpg", titled(SMALL, "after"), STEPS))
        assert after["state"] == "succeeded"
        assert all(dispatcher["converters"] >= 1 for dispatcher in api.http.get("/api/health").json()["dispatchers"])
