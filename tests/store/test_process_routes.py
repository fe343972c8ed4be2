"""The route of the first PixTools on the real stores: what it accepts, and the fields that its clients read."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator

import httpx
import pytest
from images import photo, saved
from ingress import ingress
from jobs import claim, fail, finish, new_job, record, submitted
from psycopg import Connection
from pydantic import SecretStr
from webhooks import GONE, OK, attempted, claim_all

from pixtools.blob_store import BlobStore
from pixtools.jobs.dead_letters import DeadLetterSelection
from pixtools.jobs.outcomes import Cached, Started, Stored, Succeeded
from pixtools.states import JobState
from serve.owner import PUBLIC_OWNER

pytestmark = pytest.mark.anyio

PHOTO = saved(photo(), "PNG")
OURS = {"job_id", "status", "result_urls", "archive_url", "metadata", "error_message"}
EXIF = {
    "exif": {"make": "PixCam", "model": "PixCam One", "date_time_original": "2026:02:03 04:05:06", "lens_model": 7},
    "exposure": {"time_s": 0.004, "f_number": 2.8, "iso": 200},
    "gps": {"latitude": 47.5, "longitude": 8.25, "altitude_m": 400},
}


@pytest.fixture
def blobs(own_bucket) -> BlobStore:
    return BlobStore(own_bucket)


@pytest.fixture
async def http(own_bucket, pool, blobs) -> AsyncIterator[httpx.AsyncClient]:
    async with ingress(own_bucket.model_copy(update={"webhook_keys": SecretStr("k" * 32)}), pool, blobs) as http:
        yield http


async def process(http: httpx.AsyncClient, operations: object, key: str = "", **fields: str) -> httpx.Response:
    form = {"operations": json.dumps(operations)} | fields
    headers = {"Idempotency-Key": key} if key else {}
    return await http.post("/api/process", files={"file": ("a.png", PHOTO)}, data=form, headers=headers)


async def test_a_request_of_an_old_client_gets_a_pending_job_as_it_is_read_afterwards(http, store):
    params = {"webp": {"quality": "80", "mode": "x"}, "denoise": {"resize": {"width": 40}}, "avif": {"quality": 900}}
    answer = await process(http, ["WEBP", "DENOISE", "webp"], operation_params=json.dumps(params))

    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert {name: job[name] for name in OURS} == {
        "job_id": job["id"], "status": "PENDING", "result_urls": {}, "archive_url": None, "metadata": None,
        "error_message": None,
    }  # fmt: skip
    assert job["steps"].keys() == {"webp", "denoise-full-size", "denoise"}
    assert job == (await http.get(f"/api/jobs/{job['job_id']}")).json()
    assert store.get(PUBLIC_OWNER, uuid.UUID(job["id"])).job.is_process


async def test_a_job_of_another_route_has_no_further_fields(http):
    form = {"operations": '["webp"]'}
    job = (await http.post("/api/jobs", files={"file": ("a.png", PHOTO)}, data=form)).json()
    assert not OURS & job.keys()
    assert not OURS & (await http.get(f"/api/jobs/{job['id']}")).json().keys()


async def test_a_finished_job_has_urls_of_pictures_and_flat_metadata(http, store):
    job = (
        await process(http, ["webp", "denoise", "metadata"], operation_params='{"denoise": {"resize": {"width": 9}}}')
    ).json()
    claimed = claim(store)
    assert (await http.get(f"/api/jobs/{job['id']}")).json()["status"] == "PROCESSING"
    for step in claimed.view.steps:
        made = Stored(step.key, f"blob-{step.name}", "image/png", 9, "cd" * 32, 4, 3, EXIF)
        record(store, claimed, Started(step.name), Succeeded(step.name, made, 7))
    record(store, claimed, settle=True)

    done = (await http.get(f"/api/jobs/{job['id']}")).json()
    assert (done["status"], done["error_message"]) == ("COMPLETED", None)
    assert done["result_urls"] == {name: done["steps"][name]["artifact"]["url"] for name in ("webp", "denoise")}
    assert done["archive_url"] == f"/api/jobs/{job['id']}/archive"
    assert done["metadata"] == {
        "camera_make": "PixCam", "camera_model": "PixCam One", "captured_at": "2026:02:03 04:05:06",
        "exposure_time": "1/250s", "aperture": "f/2.8", "iso": 200, "gps": {"latitude": 47.5, "longitude": 8.25},
    }  # fmt: skip


async def test_a_failed_step_makes_the_job_fail_with_one_line(http, store):
    job = (await process(http, ["webp", "avif"])).json()
    claimed = claim(store)
    finish(store, claimed, "webp")
    fail(store, claimed, "avif", settle=True)

    done = (await http.get(f"/api/jobs/{job['id']}")).json()
    assert (done["state"], done["status"]) == ("partial", "FAILED")
    assert done["error_message"].startswith("avif: ")
    assert done["result_urls"].keys() == {"webp"}


@pytest.mark.parametrize(("end", "status"), [(finish, "COMPLETED"), (fail, "FAILED")])
async def test_an_expired_job_keeps_its_status(http, store, letters, retention, clock, end, status):
    new = submitted(store, new_job(owner=PUBLIC_OWNER, is_process=True))
    end(store, new, "a", settle=True)
    letters.discard(PUBLIC_OWNER, DeadLetterSelection(job=new.id))
    clock.end_retention(new.id)
    assert len(retention.expire_jobs()) == 1

    shown = (await http.get(f"/api/jobs/{new.id}")).json()
    assert (shown["state"], shown["status"], shown["result_urls"]) == ("expired", status, {})


async def test_a_webhook_that_was_given_up_shows_in_the_status(http, store, deliveries):
    new = new_job(owner=PUBLIC_OWNER, webhook_url="http://127.0.0.1:1/hook", is_process=True)
    claimed = submitted(store, new)
    assert finish(store, claimed, "a", settle=True) == JobState.SUCCEEDED
    assert (await http.get(f"/api/jobs/{new.id}")).json()["status"] == "COMPLETED"

    for result in (GONE, OK):
        (delivery,) = claim_all(deliveries)
        deliveries.record([attempted(delivery, result)])
        shown = await http.get(f"/api/jobs/{new.id}")
        assert shown.json()["status"] == ("COMPLETED_WEBHOOK_FAILED" if result is GONE else "COMPLETED")
        deliveries.replay(PUBLIC_OWNER, delivery.record.id)  # shows COMPLETED again, under a new ETag
        again = await http.get(f"/api/jobs/{new.id}", headers={"If-None-Match": shown.headers["ETag"]})
        if result is GONE:
            assert (again.status_code, again.json()["status"]) == (200, "COMPLETED")


async def test_one_key_makes_one_job_and_belongs_to_this_route(http):
    key = uuid.uuid4().hex
    first = await process(http, ["WEBP"], key)
    again = await process(http, ["webp", "webp"], key)
    assert again.content == first.content
    assert again.headers["Idempotency-Replayed"] == "true"

    other = await process(http, ["avif"], key)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    form = {"operations": '["webp"]'}
    elsewhere = await http.post(
        "/api/jobs", files={"file": ("a.png", PHOTO)}, data=form, headers={"Idempotency-Key": key}
    )
    assert elsewhere.status_code == 202
    assert elsewhere.json()["id"] != first.json()["id"]


@pytest.mark.parametrize(
    ("fields", "status", "at"),
    [
        ({"operations": "null"}, 422, "/operations"),
        ({"operations": "5"}, 422, "/operations"),
        ({"operations": '["tiff"]'}, 422, "/operations/0"),
        ({"operations": '["webp", "PNG"]'}, 422, "/operations/1"),
        ({"operations": '["webp"]', "operation_params": "7"}, 422, "/operation_params"),
        ({"operations": '["jpg"]', "operation_params": '{"jpg":{"quality":0}}'}, 422, "/operation_params/jpg/quality"),
        ({"operations": '["webp"]', "operation_params": "{"}, 400, "/operation_params"),
        ({"operations": '["webp"]', "steps": "{}"}, 422, "/steps"),
        ({"operations": '["webp"]', "webhook_url": "file:///etc/passwd"}, 422, "/webhook_url"),
        ({}, 400, "/operations"),
    ],
)  # fmt: skip
async def test_a_mistake_is_a_problem_that_points_to_the_field(http, fields, status, at):
    answer = await http.post("/api/process", files={"file": ("a.png", PHOTO)}, data=fields)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert [fault["pointer"] for fault in answer.json()["errors"]] == [at]


async def test_the_openapi_document_describes_the_route(http):
    document = (await http.get("/openapi.json")).json()
    route = document["paths"]["/api/process"]["post"]
    assert route["requestBody"]["content"]["multipart/form-data"]["schema"]["required"] == ["file", "operations"]
    assert document["components"]["schemas"]["ProcessJobAnswer"]["properties"].keys() >= OURS


# The archive


async def ended(http: httpx.AsyncClient, store, *, failed: str = "") -> str:
    """Return the id of an ended job of two pictures."""
    job = (await process(http, ["webp", "avif"])).json()
    claimed = claim(store)
    for step in claimed.view.steps:
        if step.name != failed:
            finish(store, claimed, step.name)
    if failed:
        fail(store, claimed, failed)
    record(store, claimed, settle=True)
    return job["id"]


def archive(http: httpx.AsyncClient, job_id: str) -> asyncio.Task:
    return asyncio.create_task(http.get(f"/api/jobs/{job_id}/archive"))


async def next_claim(store):
    while not (claims := await asyncio.to_thread(store.claim, "d0", 1)):
        await asyncio.sleep(0.05)
    return claims[0]


async def test_an_archive_is_made_by_one_job_whose_other_steps_are_cached(http, store, blobs):
    job_id = await ended(http, store)
    asking = archive(http, job_id)
    claimed = await next_claim(store)
    assert {step.name: step.inputs for step in claimed.view.steps} == {
        "webp": ("source",), "avif": ("source",), "archive": ("webp", "avif"),
    }  # fmt: skip
    assert claimed.reusable.keys() == {step.key for step in claimed.view.steps if step.name != "archive"}
    assert blobs.get(claimed.view.job.source_key) == PHOTO
    assert claimed.view.job.source_key != store.get(PUBLIC_OWNER, uuid.UUID(job_id)).job.source_key
    others = [Cached(step.name, claimed.reusable[step.key].id) for step in claimed.view.steps[:2]]
    record(store, claimed, *others)
    finish(store, claimed, "archive", settle=True)

    answer = await asking
    assert answer.status_code == 307, answer.text
    assert "a-archive.zip" in answer.headers["location"]
    assert (await archive(http, job_id)).status_code == 307
    assert len((await http.get("/api/jobs")).json()["jobs"]) == 2


async def test_the_job_that_made_an_archive_makes_no_further_one(http, store):
    asking = archive(http, await ended(http, store))
    claimed = await next_claim(store)
    record(store, claimed, *(Cached(step.name, claimed.reusable[step.key].id) for step in claimed.view.steps[:2]))
    finish(store, claimed, "archive", settle=True)
    await asking

    for _ in range(3):
        answer = await http.get(f"/api/jobs/{claimed.id}/archive")
        assert (answer.status_code, "a-archive.zip" in answer.headers["location"]) == (307, True)
    assert store.claim("d0", 1) == []


async def test_an_archive_that_would_be_too_large_is_refused_at_once(http, store, database: Connection):
    job_id = await ended(http, store)
    database.execute("UPDATE artifact SET bytes = 300_000_000")
    answer = await http.get(f"/api/jobs/{job_id}/archive")

    assert (answer.status_code, answer.json()["code"]) == (422, "results_too_large")


async def test_an_archive_has_only_the_files_that_exist(http, store):
    asking = archive(http, await ended(http, store, failed="avif"))
    claimed = await next_claim(store)
    assert [step.name for step in claimed.view.steps] == ["webp", "archive"]
    record(store, claimed, Cached("webp", claimed.reusable[claimed.view.steps[0].key].id))
    fail(store, claimed, "archive", settle=True)
    answer = await asking
    assert (answer.status_code, answer.json()["code"]) == (422, "corrupt_image")


async def test_an_archive_that_is_not_made_in_time_is_announced(http, store, monkeypatch):
    monkeypatch.setattr("serve.archives._MAX_WAIT_S", 0.1)
    answer = await http.get(f"/api/jobs/{await ended(http, store)}/archive")
    assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (503, "archive_not_ready", "2")


async def test_many_requests_at_once_share_one_job(http, store, blobs, monkeypatch):
    monkeypatch.setattr("serve.archives._MAX_WAIT_S", 0.1)
    job_id = await ended(http, store)
    answers = await asyncio.gather(*(http.get(f"/api/jobs/{job_id}/archive") for _ in range(5)))
    assert {answer.status_code for answer in answers} == {503}
    assert len((await http.get("/api/jobs")).json()["jobs"]) == 2
    kept = [blob.key for page in blobs.pages("sources/") for blob in page]
    assert len(kept) == 2


async def test_a_job_without_an_end_or_without_files_has_no_archive(http, store):
    job = (await process(http, ["webp"])).json()
    assert (await http.get(f"/api/jobs/{job['id']}/archive")).json()["code"] == "job_not_ended"
    fail(store, claim(store), "webp", settle=True)
    assert (await http.get(f"/api/jobs/{job['id']}/archive")).json()["code"] == "no_files"


async def test_the_job_of_somebody_else_has_no_archive(http, store):
    new = new_job(owner="ann")
    finish(store, submitted(store, new), "a", settle=True)
    assert (await http.get(f"/api/jobs/{new.id}/archive")).status_code == 404
