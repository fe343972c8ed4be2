"""The clients of the first PixTools through the running service: their requests, the answers and the archive."""

from __future__ import annotations

import io
import json
import time
import uuid
import zipfile

import httpx
import pytest
from images import photo_with_metadata
from PIL import Image

ENDED = ("COMPLETED", "FAILED", "COMPLETED_WEBHOOK_FAILED")
PHOTO = photo_with_metadata("JPEG")


def process(api, operations: list[str], key: str | None = None, **fields: str) -> httpx.Response:
    form = {"operations": json.dumps(operations)} | fields
    headers = {"Idempotency-Key": key or str(uuid.uuid4())}
    files = {"file": ("IMG 1.jpg", PHOTO, "image/jpeg")}
    return api.http.post("/api/process", files=files, data=form, headers=headers)


def polled(api, job_id: str) -> dict:
    """Poll a job until it has ended, as the page of the first PixTools does. Return the job."""
    deadline = time.monotonic() + 120
    while (job := api.http.get(f"/api/jobs/{job_id}").json())["status"] not in ENDED:
        assert time.monotonic() < deadline, job
        time.sleep(0.2)
    return job


def downloaded_archive(api, job: dict) -> zipfile.ZipFile:
    while (answer := api.http.get(job["archive_url"])).status_code == 503:
        time.sleep(int(answer.headers["retry-after"]))
    assert answer.status_code == 307, answer.text
    return zipfile.ZipFile(io.BytesIO(httpx.get(answer.headers["location"]).content))


def test_the_page_of_the_first_pixtools_gets_every_result_and_the_archive(api):
    size = {"width": 60, "height": 60}
    params = {"webp": {"quality": 80, "resize": size}, "png": {"resize": size}, "denoise": {"resize": size}}
    answer = process(
        api, ["png", "webp", "avif", "denoise", "metadata"], operation_params=json.dumps(params), webhook_url=""
    )
    assert answer.status_code == 202, answer.text
    assert answer.json()["status"] == "PENDING"

    job = polled(api, answer.json()["job_id"])
    assert (job["status"], job["error_message"]) == ("COMPLETED", None), job
    assert job["result_urls"].keys() == {"png", "webp", "avif", "denoise"}
    pictures = {name: Image.open(io.BytesIO(httpx.get(url).content)) for name, url in job["result_urls"].items()}
    assert {name: picture.size for name, picture in pictures.items()} == {
        "png": (60, 40), "webp": (60, 40), "denoise": (60, 40), "avif": (96, 64),
    }  # fmt: skip
    assert job["metadata"]["camera_model"] == "PixCam One"
    assert (job["metadata"]["exposure_time"], job["metadata"]["aperture"]) == ("1/250s", "f/2.8")
    with downloaded_archive(api, job) as bundle:
        assert sorted(bundle.namelist()) == [
            "IMG 1-avif.avif", "IMG 1-denoise.png", "IMG 1-metadata.json", "IMG 1-png.png", "IMG 1-webp.webp",
        ]  # fmt: skip
        assert bundle.read("IMG 1-webp.webp") == httpx.get(job["result_urls"]["webp"]).content


def test_a_client_that_sends_texts_and_what_nobody_knows_is_served(api):
    params = {"webp": {"quality": "70", "mode": "x", "resize": {"width": "48"}}, "avif": {"quality": "no"}}
    key = str(uuid.uuid4())
    answers = [process(api, ["WEBP", "webp"], key, operation_params=json.dumps(params)) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202, 202], answers[0].text
    assert answers[0].content == answers[1].content
    job = polled(api, answers[0].json()["job_id"])
    assert job["steps"]["webp"]["params"] == {"quality": 70, "resize": {"width": 48}}


def test_a_webhook_is_accepted_and_its_failure_does_not_harm_the_job(api):
    answer = process(api, ["webp"], webhook_url="https://receiver.invalid/hook")
    assert (answer.status_code, answer.json()["webhook_url"]) == (202, "https://receiver.invalid/hook"), answer.text
    job = polled(api, answer.json()["job_id"])
    assert (job["status"], list(job["result_urls"])) == ("COMPLETED", ["webp"])


@pytest.mark.parametrize("path", ["/api/livez", "/api/jobs/none"])
def test_a_request_keeps_its_id(api, path):
    answer = api.http.get(path, headers={"X-Request-ID": "mine-1"})
    assert answer.headers.get_list("x-request-id") == ["mine-1"]
    assert answer.is_success or answer.json()["request_id"] == "mine-1"
    (new,) = api.http.get(path, headers={"X-Request-ID": "not valid"}).headers.get_list("x-request-id")
    assert "not" not in new


def test_a_refusal_of_the_gate_keeps_the_id(api):
    answer = api.http.get("/api/jobs", headers={"Host": "evil.example", "X-Request-ID": "mine-2"})
    assert (answer.status_code, answer.json()["request_id"]) == (421, "mine-2")
    assert answer.headers.get_list("x-request-id") == ["mine-2"]
