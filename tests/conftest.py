"""Fixtures for several folders of tests: an open folder, the settings of running stores, and the whole service."""

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

# Hypothesis examples have no deadline, because other processes of the machine may slow them down.
hypothesis.settings.register_profile("pixtools", deadline=None)
hypothesis.settings.load_profile("pixtools")

# A shell makes a background process and its children ignore SIGINT. The next line ends that, because tests stop
# services with SIGINT.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Ray reads these variables when a test module imports Ray. With the first one, Ray listens only on loopback in
# this process. The other two set the token for a Ray head that a test starts later.
os.environ |= {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
}


@pytest.fixture
def anyio_backend() -> str:
    """Run `async def` tests on asyncio, as the service does."""
    return "asyncio"


@pytest.fixture(scope="session")
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter, unlike the folders of pytest.

    If root runs the tests, Postgres runs as the user `nobody`, who must reach its data.
    """
    folder = Path(tempfile.mkdtemp(prefix="pixtools-test-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def settings(open_folder: Path) -> Iterator[Settings]:
    """The settings of a service that has not been started. Its stores run on free ports. Its tables exist."""
    with stores.running(Home(open_folder / "stores")) as env:
        made = Settings(**{name.removeprefix("PIXTOOLS_").lower(): value for name, value in env.items()})
        migrate.upgrade(made.database_url.get_secret_value())
        yield made


@pytest.fixture
def new_stack(open_folder: Path) -> Iterator[Callable[..., Stack]]:
    """A function that makes services without starting them. Each service has its own home and ports."""
    made = []

    def make(**options: object) -> Stack:
        made.append(Stack(open_folder / f"home-{time.monotonic_ns()}", **options))
        return made[-1]

    yield make
    for stack in made:
        if stack.process is not None:
            stack.kill()
            stack.process.wait(60)
            ray_head.remove_folder(Home(stack.home))  # because a killed service cannot delete this folder


@pytest.fixture(scope="session")
def stack(open_folder: Path) -> Iterator[Stack]:
    """A service that runs for the whole session."""
    running = Stack(open_folder / "stack", extra_env={"PIXTOOLS_ALLOW_PRIVATE_WEBHOOKS": "1"})  # receivers are here
    running.launch("--parent", str(os.getpid()))  # so that the service ends if the tests are killed
    try:
        running.wait_until_ready()
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module")
def api(stack: Stack) -> Iterator[Api]:
    """A client of the service that runs for the whole session."""
    with Api(stack.base_url) as client:
        yield client
