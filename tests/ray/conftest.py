"""One small Ray cluster and the real stores."""

from __future__ import annotations

import os
import time

import pytest

from pixtools.blob_store import BlobStore
from pixtools.local import ray_head as local_ray
from pixtools.local.home import Home
from pixtools.local.ports import free_port


@pytest.fixture(scope="session")
def blobs(settings):
    return BlobStore(settings)


@pytest.fixture(scope="module")
def cluster(open_folder):
    """A head as `pixtools up` starts it, with this process as a driver: no longer than needed, for a driver
    aborts when its cluster is gone.
    """
    home = Home(open_folder / "head")
    home.secret_path("ray-token").write_text(os.environ["RAY_AUTH_TOKEN"])
    head = local_ray.start(home, free_port(), free_port(), dict(os.environ))
    try:
        head.wait()
        import ray  # noqa: PLC0415 (it reads the environment)

        address = local_ray.folder(home) / "ray_current_cluster"
        while not address.exists():  # written when all its processes are up
            time.sleep(0.1)
        ray.init(address.read_text(), namespace="test", log_to_driver=False)
        yield ray
        ray.shutdown()
    finally:
        head.stop()
        local_ray.forget(home)
