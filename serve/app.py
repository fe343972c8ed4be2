"""Builds the HTTP application: reads the settings once, creates all objects of the ingress, and connects the routes.

Ray Serve creates an `Ingress` in each ingress replica. Importing this module starts nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from ray import serve as ray_serve
from starlette.responses import FileResponse
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from actors import fleet
from pixtools import logs, memory, tracing
from pixtools.blob_store import BlobStore
from pixtools.database.connection import Database
from pixtools.database.dead_letter_store import DeadLetterStore
from pixtools.database.delivery_store import DeliveryStore
from pixtools.database.endpoint_store import EndpointStore
from pixtools.database.job_store import JobStore
from pixtools.outbound.addresses import AddressPolicy
from pixtools.redis.circuits import Circuits
from pixtools.redis.hints import Hints
from pixtools.redis.key_reservations import KeyReservations
from pixtools.settings import Settings
from pixtools.webhooks.vault import Vault
from serve import back_pressure, problems, proxy
from serve.admission import Admission
from serve.archive_routes import ArchiveRoutes
from serve.archives import Archives
from serve.catalog import catalog
from serve.dead_letter_routes import DeadLetterRoutes
from serve.dead_letters import DeadLetters
from serve.gate import Gate
from serve.health import Health
from serve.inspection import Inspection
from serve.intake import Intake
from serve.job_bodies import JobBodies
from serve.job_routes import JobRoutes
from serve.process_routes import ProcessRoutes
from serve.progress import ProgressFeed
from serve.ray_api import RayApi, with_files
from serve.request_ids import RequestContext, RequestIds
from serve.request_metrics import RequestMetrics
from serve.security_headers import SecurityHeaders
from serve.service_routes import ServiceRoutes
from serve.webhook_routes import WebhookRoutes
from serve.webhooks import Webhooks

STATIC = Path(__file__).parent.parent / "static"
_DATABASE_CONNECTIONS = 10


@dataclass(frozen=True)
class Applications:
    """The application, for HTTP and for clients of the Ray cluster."""

    http: ASGIApp
    ray: RayApi


def create() -> Applications:
    """Read the settings from the environment, and build the application."""
    settings = Settings()
    logs.to_stderr(settings.log_format)
    tracing.start(settings.traces_url, "ingress")
    back_pressure.install()
    memory.return_freed_blocks()
    database = Database(settings, pool_size=_DATABASE_CONNECTIONS, name="ingress")
    store = JobStore(database, settings)
    blobs = BlobStore(settings)
    reservations = KeyReservations(settings)
    hints = Hints(settings)
    inspection = Inspection()
    deliveries = DeliveryStore(database)
    bodies = JobBodies(store, blobs, deliveries)
    poll_interval_s, lifetime_s = settings.poll_interval.total_seconds(), settings.stream_lifetime.total_seconds()
    feed = ProgressFeed(store, bodies, hints, poll_interval_s, lifetime_s=lifetime_s)
    letters = DeadLetters(DeadLetterStore(database), fleet, settings.dead_letter_retention)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(fleet.launch, settings)
        inspection.start()
        listening = asyncio.create_task(feed.listen())
        yield
        listening.cancel()
        await asyncio.to_thread(inspection.close)
        await hints.close()
        await reservations.close()
        circuits.close()
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
    admission = Admission(settings, store)
    circuits = Circuits(settings)
    webhooks = Webhooks(
        EndpointStore(database),
        deliveries,
        Vault(settings.webhook_keys),
        AddressPolicy(allow_private=settings.allow_private_webhooks),
        circuits,
        hints,
        settings.redrives_per_s,
    )
    intake = Intake(settings, store, blobs, reservations, hints, inspection, admission, webhooks)
    jobs = JobRoutes(intake, store, blobs, bodies, feed, hints, letters)
    app.include_router(jobs.router())
    app.include_router(ProcessRoutes(jobs).router())
    app.include_router(ArchiveRoutes(Archives(settings, store, blobs, admission, feed, hints)).router())
    app.include_router(DeadLetterRoutes(letters).router())
    app.include_router(WebhookRoutes(webhooks).router())
    health = Health(database, store, blobs, reservations, admission, settings)
    app.include_router(ServiceRoutes(catalog(settings), health).router())
    _serve_pages(app)
    # Serve's proxy runs the gate before it hands a request to this process. A second gate here would count each request
    # twice. On a cluster that does not configure the proxy, the gate runs here.
    guarded = app if proxy.is_installed() else Gate(app, settings)
    # FastAPI answers unexpected errors outside its own middleware. These answers need the headers too, so
    # SecurityHeaders wraps the whole application.
    http = RequestContext(RequestMetrics(SecurityHeaders(guarded, images_from=blobs.public_url)))
    # Calls of Ray clients do not pass Serve's proxy. Their gate counts them apart from HTTP requests.
    for_ray = RequestContext(RequestMetrics(with_files(app, store, blobs)))
    return Applications(http, RayApi(RequestIds(Gate(for_ray, settings))))


def _serve_pages(app: FastAPI) -> None:
    def page(name: str) -> FileResponse:
        return FileResponse(STATIC / name)

    app.add_api_route("/", lambda: page("index.html"), include_in_schema=False)
    app.add_api_route("/docs", lambda: page("docs.html"), include_in_schema=False)
    app.mount("/static", StaticFiles(directory=STATIC), "static")
    # Swagger UI comes from an installed package, so the page `/docs` loads nothing from other hosts.
    spec = find_spec("fastapi_offline")
    assert spec is not None and spec.origin is not None  # noqa: S101, PT018 (this package is always installed)
    app.mount("/docs/assets", StaticFiles(directory=Path(spec.origin).parent / "static"), "docs")


@ray_serve.ingress()
class Ingress:
    """An ingress replica: Serve passes HTTP requests to the application, and calls of Ray clients to `request`."""

    def __init__(self) -> None:
        self._applications = create()

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Return the application for HTTP requests."""
        return self._applications.http

    async def request(
        self, method: str, url: str, headers: list[tuple[str, str]], body: list[Any]
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        """Call RayApi.request."""
        return await self._applications.ray.request(method, url, headers, body)


app = ray_serve.deployment(Ingress, name="ingress").bind()
