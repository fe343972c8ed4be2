"""The limits of a whole job: a submission that exceeds them is refused, and jobs that were accepted stay valid."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from images import photo, saved
from ingress import ingress
from jobs import claim

from actors.attempt import stored_plan
from pixtools.blob_store import BlobStore

pytestmark = pytest.mark.anyio

PHOTO = saved(photo(), "PNG")
PIXELS = 96 * 64
KEPT = {name: {"op": "flip", "input": "source"} for name in ("one", "two", "three")}


async def post(http: httpx.AsyncClient, *, key: str | None = None, **fields: Any) -> httpx.Response:
    headers = {"Idempotency-Key": key} if key else {}
    form = {name: json.dumps(value) for name, value in fields.items()}
    return await http.post("/api/jobs", files={"file": ("a.png", PHOTO)}, data=form, headers=headers)


@pytest.mark.parametrize(
    ("limit", "setting"),
    [
        ({"max_job_pixels": 3 * PIXELS - 1}, "PIXTOOLS_MAX_JOB_PIXELS"),
        ({"max_kept_steps": 2}, "PIXTOOLS_MAX_KEPT_STEPS"),
    ],
)
async def test_a_job_that_exceeds_a_limit_is_refused_with_the_name_of_the_setting(own_bucket, pool, limit, setting):
    settings = own_bucket.model_copy(update=limit)

    async with ingress(settings, pool, BlobStore(settings)) as http:
        refused = await post(http, steps=KEPT)
        accepted = await post(http, steps={name: KEPT[name] for name in ("one", "two")})

    problem = refused.json()
    assert (refused.status_code, problem["code"]) == (422, "invalid_plan")
    assert setting in problem["detail"]
    assert [(fault["pointer"], setting in fault["detail"]) for fault in problem["errors"]] == [("/steps", True)]
    assert accepted.status_code == 202


async def test_a_refusal_of_the_short_form_points_to_the_operations(own_bucket, pool):
    settings = own_bucket.model_copy(update={"max_job_pixels": PIXELS})

    async with ingress(settings, pool, BlobStore(settings)) as http:
        refused = await post(http, operations=["webp", "jpg"])

    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/operations")


async def test_lower_limits_leave_accepted_jobs_and_their_stored_answers_alone(own_bucket, pool, store):
    async with ingress(own_bucket, pool, BlobStore(own_bucket)) as http:
        first = await post(http, key="k", steps=KEPT)
    lower = own_bucket.model_copy(update={"max_job_pixels": 1, "max_kept_steps": 0})

    async with ingress(lower, pool, BlobStore(lower)) as http:
        again = await post(http, key="k", steps=KEPT)

    assert (again.status_code, again.content) == (202, first.content)
    assert stored_plan(claim(store), lower).by_name.keys() == KEPT.keys()


async def test_a_job_is_stored_with_the_pixels_of_its_work(own_bucket, pool, store):
    async with ingress(own_bucket, pool, BlobStore(own_bucket)) as http:
        await post(http, steps={"web": {"op": "webp", "input": "source", "resize": {"width": 48}}})

    assert store.queue_load(10).pixels == PIXELS + 48 * 32
