"""Starts a separate service for one test module."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from service import Stack

from pixtools.local import ray_head
from pixtools.local.home import Home


@contextmanager
def running(home, **env: str) -> Iterator[Stack]:
    """Run a service in the folder `home`, with these environment variables. Kill the service when the block ends."""
    stack = Stack(home, extra_env=env)
    stack.launch("--parent", str(os.getpid()))
    try:
        stack.wait_until_ready()
        yield stack
    finally:
        stack.kill()
        stack.process.wait(60)
        ray_head.remove_folder(Home(home))
