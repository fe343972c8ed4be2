"""The wiring: settings are read once, everything is built from them, and the HTTP application is put together.

Ray Serve calls `create` inside each replica; importing this module starts nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from fastapi import FastAPI
from ray import serve as ray_serve
from starlette.responses import FileResponse
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from actors import fleet
from pixtools import logs
from pixtools.blob_store import BlobStore
from pixtools.database.connection import Database
from pixtools.database.dead_letter_store import DeadLetterStore
from pixtools.database.job_store import JobStore
from pixtools.redis.hints import Hints
from pixtools.redis.idempotency_cache import AnswerCache
from pixtools.settings import Settings
from serve import problems, routes
from serve.catalog import catalog
from serve.dead_letters import DeadLetters
from serve.health import Health
from serve.intake import Intake
from serve.progress import ProgressFeed
from serve.security_headers import SecurityHeaders

STATIC = Path(__file__).parent.parent / "static"
_THREADS_ON_THE_DATABASE = 10


def create() -> ASGIApp:
    """Build the application from the environment."""
    logs.to_stderr()
    settings = Settings()
    database = Database(settings, pool_size=_THREADS_ON_THE_DATABASE, name="ingress")
    store = JobStore(database, settings)
    blobs = BlobStore(settings)
    answers = AnswerCache(settings)
    hints = Hints(settings)
    feed = ProgressFeed(store, hints, settings.poll.total_seconds())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(fleet.launch, settings)
        listening = asyncio.create_task(feed.listen())
        yield
        listening.cancel()
        await hints.close()
        await answers.close()
        database.close()

    app = FastAPI(
        title="PixTools",
        version=version("pixtools"),
        summary="Submit images, chain steps on them, follow the job, download the results.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    problems.install(app)
    letters = DeadLetters(settings, DeadLetterStore(database))
    app.include_router(routes.jobs(Intake(settings, store, blobs, answers, hints), store, blobs, feed, hints, letters))
    app.include_router(routes.dead_letters(letters))
    app.include_router(routes.service(catalog(settings), Health(database, store, blobs, answers, settings)))
    _serve_pages(app)
    # Around everything: the answers to unexpected errors come from outside an application's own middleware.
    return SecurityHeaders(app, images_from=_origin(settings))


def _serve_pages(app: FastAPI) -> None:
    def page(name: str) -> FileResponse:
        return FileResponse(STATIC / name)

    app.add_api_route("/", lambda: page("index.html"), include_in_schema=False)
    app.add_api_route("/docs", lambda: page("docs.html"), include_in_schema=False)
    app.mount("/static", StaticFiles(directory=STATIC), "static")
    # Swagger UI from a package, so that the docs need no other host.
    spec = find_spec("fastapi_offline")
    assert spec is not None and spec.origin is not None  # noqa: S101, PT018 (a pinned dependency)
    app.mount("/docs/assets", StaticFiles(directory=Path(spec.origin).parent / "static"), "docs")


def _origin(settings: Settings) -> str:
    """Return where a browser fetches pictures from, for the page's content security policy."""
    address = settings.s3_public_url or settings.s3_endpoint_url
    if address is None:
        return f"https://*.s3.{settings.s3_region}.amazonaws.com https://{settings.s3_bucket}.s3.amazonaws.com"
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc}"


ingress = ray_serve.deployment(name="ingress")(ray_serve.ingress(create)())
app = ingress.bind()
