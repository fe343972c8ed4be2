"""The health checks: their reports while servers are up or down, and the cost of many requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from actors import fleet
from pixtools.blob_store import BlobStore
from pixtools.database.connection import Database
from pixtools.database.job_store import JobStore
from pixtools.errors import NotReady
from pixtools.redis.key_reservations import KeyReservations
from pixtools.settings import Settings
from serve.admission import Admission
from serve.health import Health

pytestmark = pytest.mark.anyio


class CountedBlobs(BlobStore):
    """Object storage that counts the checks."""

    pings = 0

    def ping(self) -> None:
        self.pings += 1
        super().ping()


class CountedJobs(JobStore):
    """A job store that counts the queries of the backlog."""

    backlogs = 0

    def backlog(self) -> dict[str, int]:
        self.backlogs += 1
        return super().backlog()


@pytest.fixture
def asked(monkeypatch) -> list[Settings]:
    """The questions to the dispatchers. There are no dispatchers and couriers, because this test starts no Ray."""
    questions = []

    async def no_dispatchers(settings):
        questions.append(settings)
        return []

    async def no_couriers(_):
        return []

    monkeypatch.setattr(fleet, "stats", no_dispatchers)
    monkeypatch.setattr(fleet, "courier_stats", no_couriers)
    return questions


@asynccontextmanager
async def health_of(settings: Settings) -> AsyncIterator[tuple[Health, CountedBlobs, CountedJobs]]:
    database, reservations = Database(settings), KeyReservations(settings)
    blobs, store = CountedBlobs(settings), CountedJobs(database, settings)
    yield Health(database, store, blobs, reservations, Admission(settings, store), settings), blobs, store
    await reservations.close()
    database.close()


@pytest.mark.usefixtures("asked")
async def test_the_report_has_no_backlog_while_the_database_is_down(nowhere):
    async with health_of(nowhere) as (health, _, _):
        found = await health.report()

    assert found.parts.model_dump() == {"database": "down", "storage": "down", "redis": "down"}
    assert (found.backlog, found.queued_megapixels) == (None, None)
    assert found.free_bytes > 0


async def test_a_flood_of_readiness_checks_asks_the_stores_once(settings):
    async with health_of(settings) as (health, blobs, _):
        found = await asyncio.gather(*(health.require_ready() for _ in range(200)))
        found.append(await health.require_ready())

    assert {str(state) for state in found} == {"database='up' storage='up' redis='up'"}
    assert blobs.pings == 1


async def test_a_flood_of_health_reports_asks_the_stores_and_the_dispatchers_once(settings, asked):
    async with health_of(settings) as (health, blobs, store):
        found = await asyncio.gather(*(health.report() for _ in range(200)))
        found.append(await health.report())

    assert {report.parts.database for report in found} == {"up"}
    assert (len(asked), blobs.pings, store.backlogs) == (1, 1, 1)


async def test_a_missing_bucket_counts_as_down(settings):
    async with health_of(settings.model_copy(update={"s3_bucket": "no-such-bucket"})) as (health, _, _):
        with pytest.raises(NotReady, match="storage"):
            await health.require_ready()
