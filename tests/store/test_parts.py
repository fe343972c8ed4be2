"""Parts, such as logos: how a request sends them, how they are stored, and when they are deleted."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from images import animation, bomb, photo, saved
from ingress import ingress
from jobs import ANN, CHAIN, claim, new_job, submit, submitted
from PIL import Image

from pixtools.blob_store import SOURCES, BlobStore
from pixtools.database.connection import Database
from pixtools.jobs.records import PartRecord
from pixtools.settings import Settings
from serve.owner import PUBLIC_OWNER

pytestmark = pytest.mark.anyio

MARKED = {"w": {"op": "watermark", "input": "source", "image": "logo"}}
PHOTO = saved(photo(), "PNG")
LOGO, OTHER_LOGO = (saved(Image.new("RGBA", (8, 4), color), "PNG") for color in ("red", "blue"))


# The stores


def test_a_job_is_claimed_with_the_parts_it_was_submitted_with(store):
    claimed = submitted(store, new_job(parts=("logo", "Badge")))

    badge, logo = claimed.view.parts
    assert (badge.name, logo.name) == ("Badge", "logo")
    assert logo == PartRecord("logo", "sources/x-logo", "image/png", 4, 3, 1, 7, "ef" * 32)


def test_each_job_has_its_own_parts(store):
    with_logo = submit(store, new_job(parts=("logo",))).job_id
    without, with_badge = submit(store).job_id, submit(store, new_job(CHAIN, parts=("badge",))).job_id

    claims = {claimed.id: [part.name for part in claimed.view.parts] for claimed in store.claim("d0", 10)}

    assert claims == {with_logo: ["logo"], without: [], with_badge: ["badge"]}
    assert [part.name for part in store.get(ANN, with_badge).parts] == ["badge"]


def test_a_submitted_job_is_returned_with_its_parts(store):
    view = store.submit(new_job(parts=("logo",)))

    assert [part.name for part in view.parts] == ["logo"]


def test_the_files_of_parts_expire_with_their_job_and_their_records_do_not(store, retention, clock, database):
    claimed = submitted(store, new_job(parts=("logo",)))
    store.cancel(ANN, claimed.id)
    assert retention.unreferenced(["sources/x-logo", "sources/x-other"]) == {"sources/x-other"}
    clock.end_retention(claimed.id)

    assert retention.expire_jobs() == [["sources/x", "sources/x-logo"]]

    assert retention.unreferenced(["sources/x-logo"]) == {"sources/x-logo"}
    assert [part.name for part in store.get(ANN, claimed.id).parts] == ["logo"]
    database.execute("DELETE FROM job")
    assert database.execute("SELECT count(*) FROM part").fetchone() == (0,)


def test_each_job_that_expires_names_the_files_to_delete(store, retention, clock):
    for parts in (("logo",), (), ("badge", "logo")):
        claimed = submitted(store, new_job(parts=parts))
        store.cancel(ANN, claimed.id)
        clock.end_retention(claimed.id)

    assert sorted(map(len, retention.expire_jobs())) == [1, 2, 3]


# The request


@pytest.fixture
def bucket(own_bucket: Settings) -> Settings:
    """Settings of a service with a new, empty bucket and low limits for files."""
    return own_bucket.model_copy(update={"max_upload_bytes": 100_000, "max_part_pixels": 10_000})


@pytest.fixture
def blobs(bucket: Settings) -> BlobStore:
    return BlobStore(bucket)


@pytest.fixture
async def http(bucket: Settings, pool: Database, blobs: BlobStore) -> AsyncIterator[httpx.AsyncClient]:
    async with ingress(bucket, pool, blobs) as http:
        yield http


async def post(
    http: httpx.AsyncClient, *parts: tuple[str, Any], steps: Any = MARKED, key: str | None = None, **fields: str,
) -> httpx.Response:  # fmt: skip
    files = [("file", ("photo.png", PHOTO)), *((name, (f"{name}.bin", data)) for name, data in parts)]
    data = fields or {"steps": json.dumps(steps)}
    headers = {"Idempotency-Key": key} if key else {}
    return await http.post("/api/jobs", files=files, data=data, headers=headers)


def faults(answer: httpx.Response) -> dict[str, str]:
    return {fault["pointer"]: fault["detail"] for fault in answer.json()["errors"]}


def objects(blobs: BlobStore) -> list[str]:
    return [blob.key for page in blobs.pages(SOURCES) for blob in page]


async def test_a_part_is_stored_and_its_job_describes_it(http, store, blobs):
    answer = await post(http, ("logo", LOGO))

    assert answer.status_code == 202, answer.text
    (part,) = claim(store).view.parts
    assert blobs.get(part.blob_key) == LOGO
    assert answer.json()["parts"] == {"logo": {"media_type": "image/png", "bytes": len(LOGO), "sha256": part.sha256}}
    source_key = store.get(PUBLIC_OWNER, uuid.UUID(answer.json()["id"])).job.source_key
    assert sorted(objects(blobs)) == sorted([part.blob_key, source_key])


async def test_the_short_form_accepts_parts(http, store):
    params = json.dumps({"watermark": {"image": "logo"}})
    answer = await post(http, ("logo", LOGO), operations='["watermark", "webp"]', operation_params=params)

    assert answer.status_code == 202, answer.text
    assert [part.name for part in claim(store).view.parts] == ["logo"]
    missing = await post(http, operations='["watermark"]', operation_params=params)
    assert faults(missing).keys() == {"/operation_params/watermark/image"}
    unused = await post(http, ("logo", LOGO), operations='["webp"]')
    assert faults(unused).keys() == {"/logo"}


async def test_one_part_serves_many_steps(http):
    steps = MARKED | {"again": MARKED["w"] | {"position": "top"}}

    assert (await post(http, ("logo", LOGO), steps=steps)).status_code == 202


async def test_a_request_with_another_logo_is_another_request(http, store, blobs):
    key = uuid.uuid4().hex
    first = await post(http, ("logo", LOGO), key=key)
    again = await post(http, ("logo", LOGO), key=key)
    other = await post(http, ("logo", OTHER_LOGO), key=key)

    assert (again.content, again.headers["Idempotency-Replayed"]) == (first.content, "true")
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert len(store.list_jobs(PUBLIC_OWNER, state=None, before=None, limit=10)) == 1
    assert len(objects(blobs)) == 2


async def test_of_parallel_requests_with_one_key_the_files_of_one_are_kept(bucket, nowhere, pool, blobs):
    """Without Redis, only the database finds that requests have the same key. By then they have stored their files."""
    key = uuid.uuid4().hex
    async with ingress(bucket, pool, blobs, redis=nowhere) as http:
        answers = await asyncio.gather(*(post(http, ("logo", LOGO), key=key) for _ in range(8)))

    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.content for answer in answers}) == 1
    assert len(objects(blobs)) == 2


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"", 400, "empty_upload"),
        (b"<svg/>", 415, "unsupported_type"),
        (b"\xff\xd8\xff\xe0" + bytes(40), 422, "corrupt_image"),
        (bomb(), 422, "image_too_large"),
        (saved(photo(101, 100), "JPEG"), 422, "image_too_large"),  # 10,100 pixels, above the limit of 10,000 for a part
        (animation(101), 422, "image_too_large"),
    ],
)
async def test_a_part_that_is_not_acceptable_is_named(http, database, blobs, data, status, code):
    answer = await post(http, ("logo", data))

    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert faults(answer).keys() == {"/logo"}
    assert "'logo'" in answer.json()["detail"]
    assert database.execute("SELECT count(*) FROM job").fetchone() == (0,)
    assert objects(blobs) == []


async def test_a_damaged_part_with_a_sound_header_is_accepted_as_a_source_would_be(http):
    small = saved(photo(80, 60), "JPEG")

    assert (await post(http, ("logo", small[: len(small) // 2]))).status_code == 202


async def test_the_limit_of_an_upload_applies_to_all_files_together(http):
    large = saved(Image.effect_noise((99, 99), 200), "BMP")
    steps = {f"w{number}": MARKED["w"] | {"image": f"logo{number}"} for number in range(5)}
    parts = [(f"logo{number}", large * 2) for number in range(5)]

    answer = await post(http, *parts, steps=steps)

    assert (answer.status_code, answer.json()["code"]) == (413, "upload_too_large")
    assert "all files together" in answer.json()["detail"]


async def test_parts_beyond_the_limit_are_named(http):
    answer = await post(http, *((f"logo{number}", LOGO) for number in range(7)))

    assert answer.status_code == 422
    assert faults(answer) == dict.fromkeys(
        ("/logo5", "/logo6"), "is one of 7 files in addition to the image; at most 5 are accepted (PIXTOOLS_MAX_PARTS)"
    )
    assert answer.json()["detail"] == "These fields are not valid: logo5, logo6."


@pytest.mark.parametrize(
    ("parts", "pointer", "words"),
    [
        ([("logo", LOGO), ("logo", LOGO)], "/logo", "is sent twice"),
        ([("operations", LOGO)], "/operations", "is a file; send it as text"),
        ([("my logo", LOGO)], "/my logo", "is not a valid name for a further image"),
        ([("a/b", LOGO)], "/a~1b", "is not a valid name"),
    ],
)
async def test_parts_whose_names_are_not_valid_are_named(http, parts, pointer, words):
    answer = await post(http, *parts)

    assert answer.status_code == 422
    assert words in faults(answer)[pointer]


async def test_a_text_under_an_unknown_name_is_answered_with_how_an_image_is_sent(http):
    answer = await post(http, steps=json.dumps(MARKED), logo="logo.png")

    assert answer.status_code == 422
    assert "is not a field of this request" in faults(answer)["/logo"]
    assert "Send an image for a step as a file" in faults(answer)["/logo"]


async def test_the_fault_of_a_step_that_names_a_missing_part_points_to_its_field(http):
    assert faults(await post(http)).keys() == {"/steps/w/image"}
