"""All stores are down at the start.

The service prints which store it waits for. It accepts jobs when Postgres and S3 are up, even if Redis is down.
"""

from __future__ import annotations

import os
import time

import pytest
from api import Api
from servers import Servers
from service import Stack
from workload import PHOTO

pytestmark = pytest.mark.slow


def wait_for_output(stack: Stack, text: str, timeout: float = 120) -> None:
    deadline = time.monotonic() + timeout
    while text not in stack.output:
        assert stack.process.poll() is None, stack.output
        assert time.monotonic() < deadline, stack.output
        time.sleep(0.2)


def test_the_service_waits_for_its_stores_and_names_them(open_folder, new_stack):
    servers = Servers(open_folder / "down-at-start")
    try:
        for name in ("database", "redis", "storage"):
            servers.kill(name)
        stack = new_stack(extra_env=servers.env)
        stack.launch("--parent", str(os.getpid()))
        wait_for_output(stack, "waiting: the database:")
        servers.start("database")
        wait_for_output(stack, "waiting: Down: storage.", timeout=240)
        with Api(stack.base_url) as api:
            refused = api.post("a.jpg", PHOTO, operations='["webp"]')
            assert (refused.status_code, refused.json()["code"]) == (503, "storage_down")
            assert int(refused.headers["retry-after"]) > 0
            servers.start("storage")
            stack.wait_until_ready()
            job = api.wait(api.submit("b.jpg", PHOTO, {"web": {"op": "webp", "input": "source"}}))
            assert job["state"] == "succeeded"
            assert api.http.get("/api/readyz").json() == {"database": "up", "storage": "up", "redis": "down"}
        print("\n" + "\n".join(line for line in stack.output.splitlines() if "waiting" in line))
        servers.start("redis")
        assert stack.stop() == 0
    finally:
        servers.close()
