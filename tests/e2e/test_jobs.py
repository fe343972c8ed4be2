"""Submit a job over HTTP, follow it and download its results."""

from __future__ import annotations

import hashlib
import io
import json
import threading
import time
import uuid
import zipfile

import httpx
import pytest
from api import Api
from images import ALTITUDE, LATITUDE, LONGITUDE, photo_with_metadata
from PIL import Image
from sideways import is_upright, sideways_photo

GRAPH = {
    "web": {"op": "webp", "input": "source", "quality": 80, "resize": {"width": 1280}},
    "small": {"op": "avif", "input": "source", "resize": {"width": 320}},
    "exif": {"op": "metadata", "input": "source"},
    "png": {"op": "png", "input": "source"},
    "all": {"op": "zip", "input": ["web", "small", "exif"]},
}


def test_a_12_megapixel_photo_on_its_side_becomes_upright_results_and_a_zip(api):
    photo = sideways_photo(3000, 4000)
    job = api.submit("IMG 1.jpg", photo, GRAPH)
    assert (job["state"], job["progress"]) == ("queued", {"done": 0, "total": 5})
    assert (job["source"]["width"], job["source"]["height"]) == (3000, 4000)
    assert job["source"]["sha256"] == hashlib.sha256(photo).hexdigest()

    job = api.wait(job)
    assert job["state"] == "succeeded", job
    assert job["progress"] == {"done": 5, "total": 5}
    sizes = {"web": (1280, 1707), "small": (320, 427), "png": (3000, 4000)}
    files = {}
    for name, step in job["steps"].items():
        assert (step["state"], step["error"], step["attempt"]) == ("succeeded", None, 1)
        files[name] = api.download(job, name)
        assert hashlib.sha256(files[name]).hexdigest() == step["artifact"]["sha256"]
        if name in sizes:
            image = Image.open(io.BytesIO(files[name]))
            assert image.size == sizes[name] == (step["artifact"]["width"], step["artifact"]["height"])
            assert image.get_format_mimetype() == step["artifact"]["media_type"]
            assert is_upright(image)
    assert job["steps"]["exif"]["result"]["camera"] == "PixTools Test Camera"
    assert job["steps"]["exif"]["result"]["gps"] == {"latitude": 47.5, "longitude": 8.25}
    assert json.loads(files["exif"]) == job["steps"]["exif"]["result"]
    with zipfile.ZipFile(io.BytesIO(files["all"])) as bundle:
        assert bundle.namelist() == ["IMG 1-web.webp", "IMG 1-small.avif", "IMG 1-exif.json"]
        assert bundle.read("IMG 1-web.webp") == files["web"]


def test_by_default_results_keep_the_camera_and_lose_the_location(api):
    steps = {
        "web": {"op": "webp", "input": "source"},
        "whole": {"op": "jpg", "input": "source", "strip": "none"},
        "bare": {"op": "png", "input": "source", "strip": "all"},
        "exif": {"op": "metadata", "input": "source"},
    }
    job = api.wait(api.submit("IMG 2.jpg", photo_with_metadata("JPEG"), steps))
    assert job["state"] == "succeeded", job

    web, whole, bare = (api.download(job, name) for name in ("web", "whole", "bare"))
    for data, make, latitude_ref in ((web, "PixCam", None), (whole, "PixCam", "S"), (bare, None, None)):
        tags = Image.open(io.BytesIO(data)).getexif()
        assert tags.get(0x010F) == make
        assert tags.get_ifd(0x8825).get(1) == latitude_ref
    assert b"secret" not in web + bare
    assert b"secret city" in whole

    metadata = job["steps"]["exif"]["result"]
    assert (metadata["camera"], metadata["lens"]) == ("PixCam One", "PixLens 35mm")
    assert metadata["taken_at"] == "2026-02-03T04:05:06+09:00"
    assert metadata["exposure"].items() >= {"time_s": 0.004, "f_number": 2.8, "iso": 200}.items()
    assert metadata["gps"] == {"latitude": LATITUDE, "longitude": pytest.approx(LONGITUDE), "altitude_m": ALTITUDE}
    assert (metadata["xmp"]["title"], metadata["iptc"]["city"]) == ("Scene", "secret city")


def test_a_step_with_the_same_key_is_answered_from_the_cache(api):
    photo = sideways_photo(300, 200, seed=1)
    first = api.wait(api.submit("a.jpg", photo, {"web": {"op": "webp", "input": "source"}}))
    second = api.wait(api.submit("b.jpg", photo, {"again": {"op": "webp", "input": "source", "quality": 80}}))
    assert first["steps"]["web"]["cached"] is False
    assert second["steps"]["again"]["state"] == "cached"
    assert second["steps"]["again"]["artifact"]["name"] == "b-again.webp"
    assert api.download(second, "again") == api.download(first, "web")


def test_a_resize_leaves_a_file_only_if_it_is_kept(api):
    steps = {
        "half": {"op": "resize", "input": "source", "width": 100},
        "kept": {"op": "resize", "input": "half", "width": 50, "keep": True},
        "web": {"op": "webp", "input": "kept"},
    }
    job = api.wait(api.submit("a.jpg", sideways_photo(300, 200, seed=2), steps))
    assert job["state"] == "succeeded"
    assert job["steps"]["half"]["artifact"] is None
    assert (job["steps"]["kept"]["artifact"]["media_type"], job["steps"]["kept"]["artifact"]["width"]) == (
        "image/png",
        50,
    )
    assert Image.open(io.BytesIO(api.download(job, "web"))).size == (50, 34)


def test_a_kept_resize_from_the_cache_gives_its_pixels_to_its_readers(api):
    photo = sideways_photo(300, 200, seed=10)
    half = {"op": "resize", "input": "source", "width": 100, "keep": True}
    assert api.wait(api.submit("a.jpg", photo, {"half": half}))["state"] == "succeeded"
    job = api.wait(api.submit("a.jpg", photo, {"half": half, "small": {"op": "avif", "input": "half"}}), timeout=20)
    assert {name: step["state"] for name, step in job["steps"].items()} == {"half": "cached", "small": "succeeded"}
    assert Image.open(io.BytesIO(api.download(job, "small"))).size == (100, 67)


def test_the_short_form_runs_each_operation_once(api):
    answer = api.post(
        "a.jpg",
        sideways_photo(300, 200, seed=3),
        operations='["jpg", "metadata"]',
        operation_params='{"jpg": {"quality": 50}}',
    )
    assert answer.status_code == 202, answer.text
    job = api.wait(answer.json())
    assert {name: step["op"] for name, step in job["steps"].items()} == {"jpg": "jpg", "metadata": "metadata"}
    assert job["steps"]["jpg"]["params"] == {"quality": 50}
    assert job["state"] == "succeeded"


def test_a_truncated_photo_fails_only_the_steps_that_need_its_pixels_and_without_a_retry(api):
    photo = sideways_photo(1200, 800, seed=4)
    steps = {
        "exif": {"op": "metadata", "input": "source"},
        "web": {"op": "webp", "input": "source"},
        "all": {"op": "zip", "input": ["exif", "web"]},
    }
    job = api.wait(api.submit("cut.jpg", photo[: len(photo) // 2], steps), timeout=20)
    assert job["state"] == "partial"
    assert {name: step["state"] for name, step in job["steps"].items()} == {
        "exif": "succeeded",
        "web": "failed",
        "all": "skipped",
    }
    assert job["steps"]["web"]["error"]["code"] == "corrupt_image"
    assert job["steps"]["web"]["attempt"] == 1


def test_fifty_clients_with_one_key_at_once_make_one_job(api, stack):
    photo = sideways_photo(300, 200, seed=5)
    steps = json.dumps({"web": {"op": "webp", "input": "source"}})
    key, barrier, answers = uuid.uuid4().hex, threading.Barrier(50), []

    def send() -> None:
        with Api(stack.base_url) as client:
            barrier.wait()
            # 409: another thread holds the key. 429: all threads are one client, which may have 32 open requests.
            while (answer := client.post("a.jpg", photo, key=key, steps=steps)).status_code in (409, 429):
                assert answer.headers["retry-after"] == "1"
                time.sleep(1)
            answers.append(answer)

    threads = [threading.Thread(target=send) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.content for answer in answers}) == 1
    assert sum("idempotency-replayed" not in answer.headers for answer in answers) == 1
    jobs = api.http.get("/api/jobs", params={"limit": 100}).json()["jobs"]
    assert sum(job["source"]["sha256"] == hashlib.sha256(photo).hexdigest() for job in jobs) == 1


def test_a_key_with_another_request_is_refused(api):
    photo, key = sideways_photo(300, 200, seed=6), uuid.uuid4().hex
    api.submit("a.jpg", photo, {"web": {"op": "webp", "input": "source"}}, key=key)
    answer = api.post("a.jpg", photo, key=key, steps='{"web": {"op": "avif", "input": "source"}}')
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")


def test_events_follow_a_job_to_its_end_and_continue_after_the_last_one_seen(api):
    job = api.submit("a.jpg", sideways_photo(2400, 1600, seed=7), GRAPH)
    events = list(read_events(api, job))
    ids = [number for number, _ in events]
    assert ids == sorted(set(ids))
    assert events[-1][1]["state"] == "succeeded"
    assert len(events) > 2
    assert [number for number, _ in read_events(api, job, last=ids[-2])] == ids[-1:]
    after_the_end = api.http.get(f"/api/jobs/{job['id']}/events", headers={"Last-Event-ID": str(ids[-1])})
    assert after_the_end.status_code == 204


def read_events(api, job, last: int = 0):
    """Yield the id and the job of each event that comes after the event with the id `last`."""
    headers = {"Last-Event-ID": str(last)} if last else {}
    with api.http.stream("GET", f"/api/jobs/{job['id']}/events", headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        number = 0
        for line in answer.iter_lines():
            field, _, value = line.partition(": ")
            if field == "id":
                number = int(value)
            elif field == "data":
                yield number, json.loads(value)


def test_the_list_of_jobs_is_read_page_by_page_newest_first(api):
    ids = [
        api.submit("a.jpg", sideways_photo(60, 40, seed=8), {"web": {"op": "webp", "input": "source"}})["id"]
        for _ in range(3)
    ]
    first = api.http.get("/api/jobs", params={"limit": 2}).json()
    assert [job["id"] for job in first["jobs"]] == ids[:0:-1]
    second = api.http.get("/api/jobs", params={"limit": 2, "cursor": first["next"]}).json()
    assert second["jobs"][0]["id"] == ids[0]
    answer = api.http.get("/api/jobs", params={"limit": 0, "state": "odd"})
    assert answer.status_code == 422
    assert {error["pointer"] for error in answer.json()["errors"]} == {"/query/limit", "/query/state"}


def test_a_download_has_its_name_and_type_and_only_its_signed_url_works(api):
    job = api.wait(
        api.submit("Zürich «1».jpg", sideways_photo(60, 40, seed=9), {"w": {"op": "webp", "input": "source"}})
    )
    answer = httpx.get(job["steps"]["w"]["artifact"]["url"])
    assert answer.headers["content-type"] == "image/webp"
    assert "filename*=UTF-8''Z%C3%BCrich%20%C2%AB1%C2%BB-w.webp" in answer.headers["content-disposition"]
    assert httpx.get(job["steps"]["w"]["artifact"]["url"].replace("w.webp", "x.webp")).status_code == 403
