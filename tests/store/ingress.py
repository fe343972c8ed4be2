"""Runs the routes of jobs, dead letters and webhooks in this process, on the real stores and without Ray."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI

from actors.dead_letter_queue import DeadLetterQueue
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
from serve import problems
from serve.admission import Admission
from serve.archive_routes import ArchiveRoutes
from serve.archives import Archives
from serve.dead_letter_routes import DeadLetterRoutes
from serve.dead_letters import DeadLetters
from serve.inspection import Inspection
from serve.intake import Intake
from serve.job_bodies import JobBodies
from serve.job_routes import JobRoutes
from serve.process_routes import ProcessRoutes
from serve.progress import ProgressFeed
from serve.webhook_routes import WebhookRoutes
from serve.webhooks import Webhooks


@asynccontextmanager
async def ingress(
    settings: Settings, pool: Database, blobs: BlobStore, *, redis: Settings | None = None
) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client of the routes. If `redis` is given, the routes use the Redis of these settings."""
    reservations, hints = KeyReservations(redis or settings), Hints(redis or settings)
    store, letters = JobStore(pool, settings), DeadLetterStore(pool)
    queue = DeadLetterQueue(settings, "test", store=letters, hints=hints)
    decisions = DeadLetters(letters, queue, settings.dead_letter_retention)
    deliveries = DeliveryStore(pool)
    bodies = JobBodies(store, blobs, deliveries)
    feed = ProgressFeed(store, bodies, hints, settings.poll_interval.total_seconds())
    inspection = Inspection()
    app = FastAPI()
    problems.install(app)
    circuits = Circuits(redis or settings)
    webhooks = Webhooks(
        EndpointStore(pool),
        deliveries,
        Vault(settings.webhook_keys),
        AddressPolicy(allow_private=settings.allow_private_webhooks),
        circuits,
        hints,
        settings.redrives_per_s,
    )
    admission = Admission(settings, store)
    intake = Intake(settings, store, blobs, reservations, hints, inspection, admission, webhooks)
    jobs = JobRoutes(intake, store, blobs, bodies, feed, hints, decisions)
    app.include_router(jobs.router())
    app.include_router(ProcessRoutes(jobs).router())
    app.include_router(ArchiveRoutes(Archives(settings, store, blobs, admission, feed, hints)).router())
    app.include_router(DeadLetterRoutes(decisions).router())
    app.include_router(WebhookRoutes(webhooks).router())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http:
        yield http
    inspection.close()
    circuits.close()
    await hints.close()
    await reservations.close()
