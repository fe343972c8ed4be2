"""A full service refuses new jobs with 503, names the setting, and accepts jobs again when it has room."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import httpx
import pytest
from images import photo, saved
from ingress import ingress
from jobs import new_job, submit

from pixtools.blob_store import BlobStore
from pixtools.database.job_store import JobStore
from pixtools.errors import DatabaseDown, ServiceFull
from pixtools.jobs.views import QueueLoad
from pixtools.settings import Settings
from serve.admission import Admission

pytestmark = pytest.mark.anyio

PHOTO = saved(photo(), "PNG")
STEPS = json.dumps({"web": {"op": "webp", "input": "source"}})
PIXELS = 2 * 96 * 64  # the source and the picture of the step


@pytest.fixture
def limited(own_bucket: Settings) -> Callable[..., Settings]:
    """Return a function that returns the settings of a service with these limits and with an empty bucket."""

    def limited(**limits: object) -> Settings:
        return own_bucket.model_copy(update=limits)

    return limited


async def post(http: httpx.AsyncClient, key: str | None = None) -> httpx.Response:
    headers = {"Idempotency-Key": key} if key else {}
    return await http.post("/api/jobs", files={"file": ("a.png", PHOTO)}, data={"steps": STEPS}, headers=headers)


def assert_full(answer: httpx.Response, setting: str) -> None:
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (503, "service_full"), answer.text
    assert setting in problem["detail"]
    assert int(answer.headers["Retry-After"]) > 0


async def soon(check: Callable[[], Awaitable[httpx.Response]], status: int) -> httpx.Response:
    """Repeat a request until its answer has this status. Fails after 20 seconds."""
    deadline = time.monotonic() + 20
    while (answer := await check()).status_code != status:
        assert time.monotonic() < deadline, answer.text
        await asyncio.sleep(0.1)
    return answer


@pytest.mark.parametrize(
    ("limit", "setting"),
    [
        ({"max_queued_jobs": 2}, "PIXTOOLS_MAX_QUEUED_JOBS"),
        ({"max_queued_pixels": 2 * PIXELS}, "PIXTOOLS_MAX_QUEUED_PIXELS"),
    ],
)
async def test_a_long_queue_is_full_until_dispatchers_take_jobs(limited, pool, store, limit, setting):
    settings = limited(**limit)

    async with ingress(settings, pool, BlobStore(settings)) as http:
        assert [(await post(http)).status_code for _ in range(2)] == [202, 202]
        assert_full(await post(http), setting)

        store.claim("d0", 1)

        await soon(lambda: post(http), 202)


async def test_the_body_of_a_refused_request_is_not_read(limited, pool):
    settings = limited(max_queued_jobs=1)

    async def body():
        raise AssertionError("the body was read")
        yield b""

    async with ingress(settings, pool, BlobStore(settings)) as http:
        await post(http)
        answer = await http.post(
            "/api/jobs", content=body(), headers={"Content-Type": "multipart/form-data; boundary=x"}
        )

    assert_full(answer, "PIXTOOLS_MAX_QUEUED_JOBS")


@pytest.mark.parametrize("cached", [True, False], ids=["cached in Redis", "stored in Postgres"])
async def test_a_full_service_repeats_the_answer_to_an_accepted_request(limited, pool, nowhere, cached):
    settings, key = limited(max_queued_jobs=1), uuid.uuid4().hex
    redis = settings if cached else nowhere

    async with ingress(settings, pool, BlobStore(settings), redis=redis) as http:
        first = await post(http, key)
        again = await post(http, key)
        other = await post(http, uuid.uuid4().hex)

    assert (first.status_code, again.status_code, again.content) == (202, 202, first.content)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert_full(other, "PIXTOOLS_MAX_QUEUED_JOBS")


async def test_a_key_that_was_refused_stays_free(limited, pool, store):
    settings, key = limited(max_queued_jobs=1), uuid.uuid4().hex

    async with ingress(settings, pool, BlobStore(settings)) as http:
        await post(http)
        assert_full(await post(http, key), "PIXTOOLS_MAX_QUEUED_JOBS")
        store.claim("d0", 1)

        accepted = await soon(lambda: post(http, key), 202)

    assert "Idempotency-Replayed" not in accepted.headers


async def test_a_full_disk_refuses_jobs(limited, pool):
    settings = limited(min_free_bytes=10**18)

    async with ingress(settings, pool, BlobStore(settings)) as http:
        assert_full(await post(http), "PIXTOOLS_MIN_FREE_BYTES")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """The folder of a file system with 16 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", disk], check=False, capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("only root can mount a file system")
    yield disk
    subprocess.run(["umount", disk], check=True)


async def test_a_disk_of_a_store_that_is_full_refuses_jobs_until_it_has_space(limited, pool, small_disk):
    settings = limited(min_free_bytes=8_000_000, store_folders=(Path("/no/such/folder"), small_disk))

    async with ingress(settings, pool, BlobStore(settings)) as http:
        assert (await post(http)).status_code == 202
        (small_disk / "data").write_bytes(bytes(12_000_000))
        assert_full(await soon(lambda: post(http), 503), "PIXTOOLS_MIN_FREE_BYTES")

        (small_disk / "data").unlink()

        await soon(lambda: post(http), 202)


async def test_the_queue_is_read_once_for_many_requests(settings, pool):
    class CountingStore(JobStore):
        reads = 0

        def queue_load(self, max_jobs: int) -> QueueLoad:
            self.reads += 1
            time.sleep(0.05)
            return super().queue_load(max_jobs)

    store = CountingStore(pool, settings)
    admission = Admission(settings, store)

    await asyncio.gather(*(admission.require_room() for _ in range(50)))

    assert store.reads == 1


async def test_a_job_that_is_accepted_while_the_queue_is_read_is_not_overlooked(settings, pool):
    class SlowStore(JobStore):
        def queue_load(self, max_jobs: int) -> QueueLoad:
            load = super().queue_load(max_jobs)
            time.sleep(0.2)
            return load

    store = SlowStore(pool, settings)
    admission = Admission(settings, store)
    submit(store, new_job(pixels=5))
    reading = asyncio.create_task(admission.load())
    await asyncio.sleep(0.05)

    admission.count(7)

    assert await reading == QueueLoad(2, 12)
    assert await admission.load() == QueueLoad(2, 12)


async def test_many_requests_wait_together_for_a_database_that_is_down(nowhere, pool):
    class DownStore(JobStore):
        reads = 0

        def queue_load(self, max_jobs: int) -> QueueLoad:  # noqa: ARG002
            self.reads += 1
            time.sleep(0.05)
            raise DatabaseDown("test")

    store = DownStore(pool, nowhere)
    admission = Admission(nowhere, store)

    results = await asyncio.gather(*(admission.require_room() for _ in range(50)), return_exceptions=True)

    assert {type(result) for result in results} == {DatabaseDown}
    assert store.reads == 1
    assert not any(isinstance(result, ServiceFull) for result in results)
