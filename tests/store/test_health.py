"""The report about the service while no server can be reached."""

from __future__ import annotations

import asyncio

from actors import fleet
from pixtools.blob_store import BlobStore
from pixtools.database.connection import Database
from pixtools.database.job_store import JobStore
from pixtools.redis.idempotency_cache import IdempotencyCache
from serve.admission import Admission
from serve.health import Health


async def no_dispatchers(_settings):
    return []


def test_the_report_has_no_backlog_while_the_database_is_down(nowhere, monkeypatch):
    monkeypatch.setattr(fleet, "stats", no_dispatchers)
    database = Database(nowhere)

    async def report():
        answers = IdempotencyCache(nowhere)
        store = JobStore(database, nowhere)
        admission = Admission(nowhere, store)
        health = Health(database, store, BlobStore(nowhere), answers, admission, nowhere)
        try:
            return await health.report()
        finally:
            await answers.close()

    found = asyncio.run(report())

    assert found.parts.model_dump() == {"database": "down", "storage": "down", "redis": "down"}
    assert (found.backlog, found.queued_megapixels) == (None, None)
    assert found.free_bytes > 0
    database.close()
