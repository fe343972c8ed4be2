"""What tests of several tiers share: a folder, a token for Ray, and the whole service as a user starts it."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
from api import Api
from service import Stack

from pixtools.database import migrate
from pixtools.local import ray_head, stores
from pixtools.local.home import Home
from pixtools.settings import Settings

# The machine is shared: how long one example takes says nothing.
hypothesis.settings.register_profile("pixtools", deadline=None)
hypothesis.settings.load_profile("pixtools")

# Whoever runs the tests in the background has SIGINT ignored, and so would all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Read when Ray is imported, which test modules do: a driver on loopback, and the token of the head to come.
os.environ |= {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
}


@pytest.fixture
def anyio_backend() -> str:
    """Run `async def` tests on the loop that the service runs on."""
    return "asyncio"


@pytest.fixture(scope="session")
def open_folder() -> Iterator[Path]:
    """A folder that nobody may enter, unlike pytest's own: as root, Postgres keeps its data where it is told."""
    folder = Path(tempfile.mkdtemp(prefix="pixtools-test-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def settings(open_folder: Path) -> Iterator[Settings]:
    """Settings of a service whose stores run, each on a port of its own, and whose database is up to date."""
    with stores.running(Home(open_folder / "stores")) as env:
        made = Settings(**{name.removeprefix("PIXTOOLS_").lower(): value for name, value in env.items()})
        migrate.upgrade(made.database_url.get_secret_value())
        yield made


@pytest.fixture
def new_stack(open_folder: Path) -> Iterator[Callable[..., Stack]]:
    """Make stacks that are not running yet, each with its own home and ports."""
    made = []

    def make(**options: object) -> Stack:
        made.append(Stack(open_folder / f"home-{time.monotonic_ns()}", **options))
        return made[-1]

    yield make
    for stack in made:
        if stack.process is not None:
            stack.kill()
            stack.process.wait(60)
            ray_head.forget(Home(stack.home))  # a service that was killed leaves its folder


@pytest.fixture(scope="session")
def stack(open_folder: Path) -> Iterator[Stack]:
    """The service, running for the whole session."""
    running = Stack(open_folder / "stack")
    running.launch("--parent", str(os.getpid()))  # should the tests be killed, it must not stay
    try:
        running.wait_until_ready()
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module")
def api(stack: Stack) -> Iterator[Api]:
    with Api(stack.base_url) as client:
        yield client
