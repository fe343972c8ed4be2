"""Files that come beside an image: from the request, through the stores, to their end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request, Response
from images import animation, bomb, photo, saved
from jobs import ANN, CHAIN, claim, new_job, submit, submitted
from PIL import Image

from pixtools.blob_store import SOURCES, BlobStore
from pixtools.database.job_store import JobStore
from pixtools.redis.hints import Hints
from pixtools.redis.idempotency_cache import AnswerCache
from pixtools.settings import Settings
from serve import problems
from serve.intake import Intake

pytestmark = pytest.mark.anyio

MARKED = {"w": {"op": "watermark", "input": "source", "image": "logo"}}
PHOTO = saved(photo(), "PNG")
LOGO, OTHER_LOGO = (saved(Image.new("RGBA", (8, 4), color), "PNG") for color in ("red", "blue"))


# The stores


def test_a_job_is_claimed_with_the_parts_it_was_submitted_with(store):
    claimed = submitted(store, new_job(parts=("logo", "Badge")))

    badge, logo = claimed.view.parts
    assert (badge.name, logo.name) == ("Badge", "logo")
    facts = {"job_id": claimed.id, "name": "logo", "blob_key": "sources/x-logo", "media_type": "image/png"}
    assert logo.model_dump() == facts | {"width": 4, "height": 3, "frames": 1, "bytes": 7, "sha256": "ef" * 32}


def test_each_job_has_its_own_parts(store):
    with_logo = submit(store, new_job(parts=("logo",))).job_id
    without, with_badge = submit(store).job_id, submit(store, new_job(CHAIN, parts=("badge",))).job_id

    claims = {claimed.id: [part.name for part in claimed.view.parts] for claimed in store.claim("d0", 10)}
    history = {
        view.job.id: [part.name for part in view.parts]
        for view in store.history(ANN, state=None, before=None, limit=10)
    }

    assert claims == history == {with_logo: ["logo"], without: [], with_badge: ["badge"]}
    assert [part.name for part in store.get(ANN, with_badge).parts] == ["badge"]


def test_the_answer_is_rendered_with_the_parts(store):
    seen = []
    store.submit(new_job(parts=("logo",)), None, lambda view: seen.extend(part.name for part in view.parts) or b"")

    assert seen == ["logo"]


def test_parts_expire_with_their_job_and_are_remembered_as_long_as_it_is(store, kept, clock, database):
    claimed = submitted(store, new_job(parts=("logo",)))
    store.cancel(ANN, claimed.id)
    assert kept.unreferenced(["sources/x-logo", "sources/x-other"]) == {"sources/x-other"}
    clock.end_retention(claimed.id)

    assert kept.expire_jobs() == [["sources/x", "sources/x-logo"]]

    assert kept.unreferenced(["sources/x-logo"]) == {"sources/x-logo"}
    assert [part.name for part in store.get(ANN, claimed.id).parts] == ["logo"]
    database.execute("DELETE FROM job")
    assert database.execute("SELECT count(*) FROM part").fetchone() == (0,)


def test_each_job_that_expires_gives_up_its_own_files(store, kept, clock):
    for parts in (("logo",), (), ("badge", "logo")):
        claimed = submitted(store, new_job(parts=parts))
        store.cancel(ANN, claimed.id)
        clock.end_retention(claimed.id)

    assert sorted(map(len, kept.expire_jobs())) == [1, 2, 3]


# The request


@pytest.fixture
def bucket(own_bucket: Settings) -> Settings:
    """Settings of a service with an empty bucket of its own, and little patience for large files."""
    return own_bucket.model_copy(update={"max_upload_bytes": 100_000, "max_part_pixels": 10_000})


@pytest.fixture
def blobs(bucket: Settings) -> BlobStore:
    return BlobStore(bucket)


@asynccontextmanager
async def client(
    settings: Settings, store: JobStore, blobs: BlobStore, redis: Settings,
) -> AsyncIterator[httpx.AsyncClient]:  # fmt: skip
    """A client of an application that accepts jobs and does nothing else."""
    answers, hints = AnswerCache(redis), Hints(redis)
    intake = Intake(settings, store, blobs, answers, hints)
    app = FastAPI()
    problems.install(app)

    @app.post("/api/jobs")
    async def accept(request: Request) -> Response:
        accepted = await intake.accept(ANN, request)
        return Response(accepted.body, 202, {"Idempotency-Replayed": str(accepted.replayed).lower()})

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http:
        yield http
    await hints.close()
    await answers.close()


@pytest.fixture
async def http(bucket: Settings, store: JobStore, blobs: BlobStore) -> AsyncIterator[httpx.AsyncClient]:
    async with client(bucket, store, blobs, bucket) as http:
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


async def test_a_part_is_stored_before_its_job_says_what_it_was_made_of(http, store, blobs):
    answer = await post(http, ("logo", LOGO))

    assert answer.status_code == 202, answer.text
    (part,) = claim(store).view.parts
    assert blobs.get(part.blob_key) == LOGO
    assert answer.json()["parts"] == {"logo": {"media_type": "image/png", "bytes": len(LOGO), "sha256": part.sha256}}
    assert sorted(objects(blobs)) == sorted([part.blob_key, store.get(ANN, part.job_id).job.source_key])


async def test_the_short_form_takes_parts_too(http, store):
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
    first = await post(http, ("logo", LOGO), key="k")
    again = await post(http, ("logo", LOGO), key="k")
    other = await post(http, ("logo", OTHER_LOGO), key="k")

    assert (again.content, again.headers["Idempotency-Replayed"]) == (first.content, "true")
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert len(store.history(ANN, state=None, before=None, limit=10)) == 1
    assert len(objects(blobs)) == 2


async def test_of_requests_at_once_with_one_key_the_files_of_one_stay(bucket, nowhere, store, blobs):
    """Without Redis none of them knows of the others until the database tells."""
    async with client(bucket, store, blobs, nowhere) as http:
        answers = await asyncio.gather(*(post(http, ("logo", LOGO), key="k") for _ in range(8)))

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
        (saved(photo(101, 100), "JPEG"), 422, "image_too_large"),  # more than the 10,000 of a part
        (animation(101), 422, "image_too_large"),
    ],
)
async def test_a_part_that_cannot_be_taken_is_named(http, database, blobs, data, status, code):
    answer = await post(http, ("logo", data))

    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert faults(answer).keys() == {"/logo"}
    assert "'logo'" in answer.json()["detail"]
    assert database.execute("SELECT count(*) FROM job").fetchone() == (0,)
    assert objects(blobs) == []


async def test_a_damaged_part_whose_header_is_sound_is_accepted_as_a_source_is(http):
    small = saved(photo(80, 60), "JPEG")

    assert (await post(http, ("logo", small[: len(small) // 2]))).status_code == 202


async def test_all_files_together_are_at_most_what_an_upload_may_be(http):
    large = saved(Image.effect_noise((99, 99), 200), "BMP")
    steps = {f"w{number}": MARKED["w"] | {"image": f"logo{number}"} for number in range(5)}
    parts = [(f"logo{number}", large * 2) for number in range(5)]

    answer = await post(http, *parts, steps=steps)

    assert (answer.status_code, answer.json()["code"]) == (413, "upload_too_large")
    assert "all files together" in answer.json()["detail"]


async def test_more_parts_than_are_accepted_are_named(http):
    answer = await post(http, *((f"logo{number}", LOGO) for number in range(7)))

    assert answer.status_code == 422
    assert faults(answer) == dict.fromkeys(
        ("/logo5", "/logo6"), "7 files beside the image are more than the 5 accepted"
    )


@pytest.mark.parametrize(
    ("parts", "pointer", "words"),
    [
        ([("logo", LOGO), ("logo", LOGO)], "/logo", "stands twice"),
        ([("operations", LOGO)], "/operations", "came as a file; send it as text"),
        ([("my logo", LOGO)], "/my logo", "is no name for a file that a step takes"),
        ([("a/b", LOGO)], "/a~1b", "is no name"),
    ],
)
async def test_parts_whose_names_do_not_fit_are_named(http, parts, pointer, words):
    answer = await post(http, *parts)

    assert answer.status_code == 422
    assert words in faults(answer)[pointer]


async def test_a_text_under_an_unknown_name_is_told_how_an_image_is_sent(http):
    answer = await post(http, steps=json.dumps(MARKED), logo="logo.png")

    assert answer.status_code == 422
    assert "is no field of this request" in faults(answer)["/logo"]
    assert "sent as a file" in faults(answer)["/logo"]


async def test_a_step_that_names_no_part_of_the_request_points_to_its_field(http):
    assert faults(await post(http)).keys() == {"/steps/w/image"}
