"""Every store is down when the service starts: it says for what it waits, and goes on as each comes."""

from __future__ import annotations

import os
import time

import pytest
from api import Api
from servers import Servers
from service import Stack
from workload import PHOTO

pytestmark = pytest.mark.slow


def says(stack: Stack, text: str, patience: float = 120) -> None:
    deadline = time.monotonic() + patience
    while text not in stack.output:
        assert stack.process.poll() is None, stack.output
        assert time.monotonic() < deadline, stack.output
        time.sleep(0.2)


def test_the_service_waits_for_its_stores(open_folder, new_stack):
    servers = Servers(open_folder / "down-at-start")
    try:
        for name in ("database", "redis", "storage"):
            servers.kill(name)
        stack = new_stack(extra_env=servers.env)
        stack.launch("--parent", str(os.getpid()))
        says(stack, "waiting: the database:")
        servers.begin("database")
        says(stack, "waiting: Down: storage.", patience=240)
        with Api(stack.base_url) as api:
            refused = api.post("a.jpg", PHOTO, operations='["webp"]')
            assert (refused.status_code, refused.json()["code"]) == (503, "storage_down")
            assert int(refused.headers["retry-after"]) > 0
            servers.begin("storage")
            stack.wait_until_ready()
            job = api.wait(api.submit("b.jpg", PHOTO, {"web": {"op": "webp", "input": "source"}}))
            assert job["state"] == "succeeded"
            assert api.http.get("/api/readyz").json() == {"database": "up", "storage": "up", "redis": "down"}
        print("\n" + "\n".join(line for line in stack.output.splitlines() if "waiting" in line))
        servers.begin("redis")
        assert stack.stop() == 0
    finally:
        servers.close()
