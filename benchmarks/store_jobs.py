"""Stores without a service, and jobs for them, for the benchmarks that call the job store directly."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from running_service import new_home

from pixtools.database import migrate
from pixtools.jobs.submission import NewJob, NewStep
from pixtools.local import stores
from pixtools.local.home import Home
from pixtools.settings import Settings

OWNER = "benchmark"


@contextlib.contextmanager
def running_stores() -> Iterator[tuple[Path, Settings]]:
    """Run the stores with an empty home until the end of the context. Yields the home and the settings."""
    with new_home() as folder, stores.running(Home(folder)) as env:
        values: dict[str, Any] = {name.removeprefix("PIXTOOLS_").lower(): value for name, value in env.items()}
        settings = Settings(**values)
        migrate.upgrade(settings.database_url.get_secret_value())
        yield folder, settings


def new_job() -> NewJob:
    """Return a job of one step. Each job has another source, so no job reuses the step of another job."""
    step = NewStep("web", "webp", ("source",), {}, uuid.uuid4().hex)
    return NewJob(
        owner=OWNER,
        source_key=f"benchmark/{uuid.uuid4()}",
        source_name="none.jpg",
        source_media_type="image/jpeg",
        source_width=768,
        source_height=512,
        source_frames=1,
        source_bytes=100_000,
        source_sha256=2 * uuid.uuid4().hex,
        pixels=2 * 768 * 512,
        steps=(step,),
    )
