"""The API refuses bad input at once with one problem, and stores no job."""

from __future__ import annotations

import io
import json
import struct
import zlib

import httpx
import pytest
from animations import Frame, filled
from animations import gif as layers
from images import animation
from PIL import Image

from pixtools.operations import OPERATIONS

RESIZE = {"op": "resize", "width": 5}
LARGE = {"width": 16_000, "height": 16_000, "fit": "fill", "upscale": True}
WEBP = json.dumps({"web": {"op": "webp", "input": "source"}})


def png(width: int, height: int) -> bytes:
    """Return a PNG whose header states `width` × `height` pixels. The file has 10 kB. Decompressed, it has 10 MB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(10_000_000)))
        + chunk(b"IEND", b"")
    )


def small(kind: str = "PNG", **options) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (20, 10), "teal").save(out, kind, **options)
    return out.getvalue()


def gif(frames: int) -> bytes:
    out = io.BytesIO()
    pictures = [Image.new("RGB", (2, 2), (index, 255 - index, 0)) for index in range(frames)]
    pictures[0].save(out, "GIF", save_all=True, append_images=pictures[1:], loop=0)
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "status", "code"),
    [
        ("text.png", b"This is no picture.", 415, "unsupported_type"),
        ("empty.png", b"", 400, "empty_upload"),
        ("bomb.png", png(50_000, 50_000), 422, "image_too_large"),
        ("large-bomb.png", png(60_000, 60_000), 422, "image_too_large"),
        ("flat.png", png(0, 5), 422, "corrupt_image"),
        ("thin.png", png(5, 0), 422, "corrupt_image"),
        ("flat.gif", layers((0, 5), [Frame(filled(1, 0, 1))]), 422, "corrupt_image"),
        ("pieces.gif", gif(1)[:-1] + b"\x21\xfe\0" * 8_000_000, 422, "corrupt_image"),
        ("wide.png", png(16_385, 10), 422, "image_too_large"),
        ("many.gif", gif(101), 422, "image_too_large"),
        ("ten-thousand.gif", animation(10_000), 422, "image_too_large"),
        ("logo.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "unsupported_type"),
        ("paper.pdf", b"%PDF-1.7\n", 415, "unsupported_type"),
        ("program.exe", b"MZ" + bytes(100), 415, "unsupported_type"),
        ("head.jpg", b"\xff\xd8\xff\xe0" + bytes(40), 422, "corrupt_image"),
        ("large.png", small() + bytes(25_000_001), 413, "upload_too_large"),
    ],
)
def test_a_file_that_is_not_acceptable_is_refused_before_a_job_exists(api, name, data, status, code):
    answer = api.post(name, data, steps=WEBP)
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.json()["detail"]
    pointers = [fault["pointer"] for fault in answer.json()["errors"]]
    assert pointers == ([] if status == 413 else ["/file"])  # 413 concerns all files together, so it points to none


def test_the_bomb_of_60_000_by_60_000_is_10_kilobytes():
    assert len(png(60_000, 60_000)) < 12_000


def test_a_body_over_the_limit_without_a_length_is_refused_while_it_arrives(api):
    def body():
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
        for _ in range(300):
            yield bytes(100_000)
        yield b"\r\n--x--\r\n"

    answer = api.http.post("/api/jobs", content=body(), headers={"Content-Type": "multipart/form-data; boundary=x"})
    assert (answer.status_code, answer.json()["code"]) == (413, "upload_too_large")


def test_the_content_of_a_file_decides_on_its_type_and_not_its_name(api):
    job = api.wait(api.submit("odd.jpg", small(), {"web": {"op": "webp", "input": "source"}}))
    assert (job["source"]["media_type"], job["state"]) == ("image/png", "succeeded")


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("../../etc/x.png", "x.png"),
        ("a\\b\\c.png", "c.png"),
        ("n" * 300 + ".png", "n" * 146 + ".png"),
        ("..", "image"),
        ("a\r\nSet-Cookie: x.png", "a%0D%0ASet-Cookie: x.png"),  # httpx encodes the line break, as browsers do
    ],
)
def test_a_file_name_is_made_safe(api, name, safe):
    assert api.submit(name, small(), {"web": {"op": "webp", "input": "source"}})["source"]["name"] == safe


@pytest.mark.parametrize(
    ("raw", "safe"),
    [(b'filename="a\0b\x7fc.png"', "abc.png"), (b"filename*=UTF-8''a%00%0D%0Ab.png", None)],
)
def test_control_characters_in_a_file_name_are_removed_or_the_request_is_refused(api, raw, safe):
    body = b'--x\r\nContent-Disposition: form-data; name="steps"\r\n\r\n' + WEBP.encode()
    body += b'\r\n--x\r\nContent-Disposition: form-data; name="file"; ' + raw + b"\r\n\r\n" + small() + b"\r\n--x--\r\n"
    answer = api.http.post("/api/jobs", content=body, headers={"Content-Type": "multipart/form-data; boundary=x"})
    if safe is None:
        assert answer.status_code in (202, 400, 422), answer.text
        assert "\n" not in answer.json().get("source", {}).get("name", "")
    else:
        assert answer.status_code == 202, answer.text
        assert answer.json()["source"]["name"] == safe


def test_a_plan_with_four_mistakes_gets_one_answer_that_names_all_four(api):
    steps = {
        "web": {"op": "webp", "input": "source", "quality": 300},
        "clean": {"op": "polish", "input": "source"},
        "small": {"op": "avif", "input": "missing"},
        "all": {"op": "zip", "input": ["web"], "level": 9},
    }
    answer = api.post("a.png", small(), steps=json.dumps(steps))
    assert answer.status_code == 422
    problem = answer.json()
    assert problem["code"] == "invalid_plan"
    assert {error["pointer"] for error in problem["errors"]} == {
        "/steps/web/quality",
        "/steps/clean/op",
        "/steps/small/input",
        "/steps/all/level",
    }


@pytest.mark.parametrize(
    ("fields", "status", "pointers"),
    [
        ({"steps": "{"}, 400, {"/steps"}),
        ({}, 400, {"/steps"}),
        ({"steps": "{}"}, 422, {"/steps"}),
        ({"steps": '{"a": {"op": "webp", "input": "source", "quality": NaN}}'}, 422, {"/steps/a/quality"}),
        ({"steps": '{"a": {"op": "webp", "input": "source", "quality": Infinity}}'}, 422, {"/steps/a/quality"}),
        ({"steps": '{"a": {"op": "blur", "input": "source", "radius": NaN}}'}, 422, {"/steps/a/radius"}),
        ({"steps": WEBP, "callback": "http://example.com"}, 422, {"/callback"}),
        ({"steps": WEBP, "operations": "[]"}, 422, {"/operations"}),
        ({"operations": "null"}, 422, {"/operations"}),
        ({"operations": "3"}, 422, {"/operations"}),
        ({"steps": WEBP, "file": "text"}, 422, {"/file"}),
    ],
)
def test_fields_that_are_not_valid_are_named(api, fields, status, pointers):
    answer = api.post("a.png", small(), **fields)
    assert answer.status_code == status, answer.text
    assert {error["pointer"] for error in answer.json()["errors"]} == pointers


@pytest.mark.parametrize(
    ("steps", "pointer"),
    [
        pytest.param({"a": {"op": "webp", "color": "cmyk"}}, "/steps/a/color", id="an unknown value of an enum"),
        pytest.param({"a": {"op": "webp", "qualty": 1}}, "/steps/a/qualty", id="an unknown field"),
        pytest.param(
            {"a": {"op": "webp", "resize": {"width": 5, "fit": "in"}}}, "/steps/a/resize/fit", id="a nested field"
        ),
        pytest.param({"a": {"op": "webp", "input": ["source", "b"]}, "b": RESIZE}, "/steps/a/input", id="two inputs"),
        pytest.param({"a": {"op": "webp", "input": "c"}, "b": RESIZE}, "/steps/a/input", id="an unknown step"),
        pytest.param(
            {"a": {"op": "blur", "input": "b"}, "b": {"op": "blur", "input": "a"}}, "/steps/a/input", id="cycle"
        ),
        pytest.param({"a": {"op": "webp", "resize": LARGE}}, "/steps/a", id="upscaling beyond the limit of pixels"),
        pytest.param({"a": {"op": "resize", **LARGE}}, "/steps/a", id="the same upscaling by a resize step"),
        pytest.param(
            {"a": {"op": "crop", "width": 10, "height": 5, "x": 11}}, "/steps/a/width", id="crop past the edge"
        ),
    ],
)
def test_a_step_that_cannot_run_is_named_before_a_job_exists(api, steps, pointer):
    document = {name: {"input": "source"} | step for name, step in steps.items()}
    answer = api.post("a.png", small(), steps=json.dumps(document))
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_plan"), answer.text
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]


def test_requests_without_an_upload_are_problems(api):
    for answer in (
        api.http.post("/api/jobs"),
        api.http.post("/api/jobs", json={"steps": {}}),
        api.http.post("/api/jobs", data={"steps": WEBP}, files={"other": b"x"}),
        api.http.post("/api/jobs", content=b"x", headers={"Content-Type": "multipart/form-data"}),
    ):
        assert answer.status_code in (400, 422), answer.text
        assert answer.headers["content-type"] == "application/problem+json"


def test_two_images_in_one_request_are_refused(api):
    files = [("file", ("a.png", small())), ("file", ("b.png", small()))]
    answer = api.http.post("/api/jobs", files=files, data={"steps": WEBP})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/file")


def test_addresses_and_methods_that_do_not_exist_are_problems(api):
    for answer, status in (
        (api.http.get("/api/nothing"), 404),
        (api.http.get("/api/jobs/0199a5b2-0000-7000-8000-000000000000"), 404),
        (api.http.get("/api/jobs/not-an-id"), 422),
        (api.http.get("/api/jobs/0199a5b2-0000-7000-8000-000000000000/events"), 404),
        (api.http.put("/api/jobs"), 405),
    ):
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text


def test_the_type_of_a_problem_leads_to_its_explanation(api):
    problem = api.post("empty.png", b"", steps=WEBP).json()
    explanation = api.http.get(problem["type"]).json()
    assert explanation == {"code": "empty_upload", "title": problem["title"], "status": 400, "retryable": False}
    assert api.http.get("/problems/nothing").status_code == 404


def test_an_idempotency_key_that_is_too_long_is_refused(api):
    headers = {"Idempotency-Key": "k" * 256}
    answer = api.http.post("/api/jobs", files={"file": ("a.png", small())}, data={"steps": WEBP}, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")


def test_a_failed_request_leaves_its_key_free(api):
    assert api.post("a.png", b"", key="free-again", steps=WEBP).status_code == 400
    assert api.post("a.png", small(), key="free-again", steps=WEBP).status_code == 202


def test_every_response_has_the_security_headers(api):
    for path in ("/", "/docs", "/api/operations", "/api/nothing", "/static/index.html"):
        headers = api.http.get(path).headers
        assert headers["x-content-type-options"] == "nosniff", path
        assert "default-src 'self'" in headers["content-security-policy"], path
        assert "unsafe-inline" not in headers["content-security-policy"], path
        assert headers["cache-control"] == "no-cache", path


def test_the_docs_need_no_other_host(api):
    page = api.http.get("/docs").text
    assert "http" not in page.replace('content="width', "")
    for asset in ("/docs/assets/swagger-ui-bundle.js", "/docs/assets/swagger-ui.css", "/static/docs.js"):
        assert asset in page
        assert api.http.get(asset).status_code == 200
    description = api.http.get("/openapi.json").json()
    form = description["paths"]["/api/jobs"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert set(form["properties"]) == {"file", "steps", "operations", "operation_params", "webhook_url"}


def test_a_running_service_is_live_ready_and_healthy(api):
    assert api.http.get("/api/livez").json() == {"live": True}
    assert api.http.get("/api/readyz").json() == {"database": "up", "storage": "up", "redis": "up"}
    health = api.http.get("/api/health").json()
    assert health["dispatchers"][0]["converters"] >= 1
    assert health["backlog"] is not None


def test_the_catalog_has_all_operations_and_the_limits(api):
    catalog = api.http.get("/api/operations").json()
    assert [operation["op"] for operation in catalog["operations"]] == list(OPERATIONS)
    assert catalog["limits"]["pixels"] == 50_000_000


def test_a_client_that_disconnects_during_its_upload_leaves_no_job(api, stack):
    before = api.http.get("/api/health").json()["backlog"]
    body = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n' + bytes(1000)

    def cut():
        yield body
        raise ConnectionAbortedError

    with pytest.raises(ConnectionAbortedError):
        httpx.post(
            f"{stack.base_url}/api/jobs",
            content=cut(),
            headers={"Content-Type": "multipart/form-data; boundary=x", "Content-Length": "100000"},
        )
    assert api.http.get("/api/health").json()["backlog"] == before
