"""Fixtures: a small Ray cluster and the object storage."""

from __future__ import annotations

import os
import time

import pytest

from pixtools.blob_store import BlobStore
from pixtools.local import ray_head as local_ray
from pixtools.local.home import Home
from pixtools.local.local_settings import LocalSettings
from pixtools.local.ports import free_port


@pytest.fixture(scope="session")
def blobs(settings):
    """Return the object storage of the tests."""
    return BlobStore(settings)


@pytest.fixture(scope="module")
def cluster(open_folder):
    """Yield Ray, connected to a Ray head. The head starts in the same way as in `pixtools up`.

    A process that is connected to Ray aborts if its cluster ends. So the fixture disconnects before it stops the head.
    """
    home = Home(open_folder / "head")
    home.secret_path("ray-token").write_text(os.environ["RAY_AUTH_TOKEN"])
    settings = LocalSettings(dashboard_port=free_port(), ray_client_port=free_port(), proxy="ray")
    head = local_ray.start(home, settings, dict(os.environ))
    try:
        head.wait()
        import ray  # noqa: PLC0415 (Ray reads the environment on import)

        address = local_ray.folder(home) / "ray_current_cluster"
        while not address.exists():  # Ray writes this file when all processes are up
            time.sleep(0.1)
        ray.init(address.read_text(), namespace="test", log_to_driver=False)
        yield ray
        ray.shutdown()
    finally:
        head.stop()
        local_ray.remove_folder(home)
