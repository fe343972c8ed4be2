"""Jobs mark a picture with a text or with a logo. The request contains the logo as a part."""

from __future__ import annotations

import hashlib
import io
import json

import httpx
from api import Api
from PIL import Image

LOGO = {"op": "watermark", "input": "source", "image": "logo", "position": "top-left", "opacity": 1, "margin": 0}
STEPS = {
    "text": {"op": "watermark", "input": "source", "text": "© Ann 2026"},
    "logo": LOGO,
    "web": {"op": "webp", "input": "logo", "lossless": True},
    "all": {"op": "zip", "input": ["text", "web"]},
}


def picture(color: str, size: tuple[int, int], kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, color).save(out, kind)
    return out.getvalue()


def send(api: Api, logo: bytes, *, key: str | None = None) -> httpx.Response:
    files = {"file": ("photo.png", picture("navy", (400, 300))), "logo": ("our logo.png", logo)}
    headers = {"Idempotency-Key": key} if key else {}
    return api.http.post("/api/jobs", files=files, data={"steps": json.dumps(STEPS)}, headers=headers)


def test_a_picture_is_marked_with_a_text_and_with_a_logo(api):
    logo = picture("red", (40, 40))
    answer = send(api, logo)
    assert answer.status_code == 202, answer.text

    job = api.wait(answer.json())

    assert job["state"] == "succeeded", job
    expected = {"media_type": "image/png", "bytes": len(logo), "sha256": hashlib.sha256(logo).hexdigest()}
    assert job["parts"] == {"logo": expected}
    web = Image.open(io.BytesIO(api.download(job, "web"))).convert("RGB")
    assert (web.getpixel((5, 5)), web.getpixel((390, 290))) == ((255, 0, 0), (0, 0, 128))
    text = Image.open(io.BytesIO(api.download(job, "text")))
    assert text.crop((0, 0, 200, 150)).getcolors() == [(200 * 150, (0, 0, 128))]
    assert len(text.crop((200, 200, 400, 300)).getcolors()) > 10


def test_another_logo_makes_another_result_and_the_same_one_is_answered_from_the_cache(api):
    red, green, again = (
        api.wait(send(api, picture(color, (40, 40))).json())["steps"]["web"] for color in ("maroon", "green", "maroon")
    )

    assert red["artifact"]["sha256"] != green["artifact"]["sha256"]
    assert (green["cached"], again["cached"]) == (False, True)
    assert again["artifact"]["sha256"] == red["artifact"]["sha256"]


def test_a_repeated_request_with_another_logo_is_refused(api):
    first = send(api, picture("red", (40, 40)), key="logo-once")
    again = send(api, picture("red", (40, 40)), key="logo-once")
    other = send(api, picture("blue", (40, 40)), key="logo-once")

    assert again.json()["id"] == first.json()["id"]
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


def test_a_logo_that_cannot_be_decoded_fails_only_its_own_steps(api):
    whole = picture("red", (400, 400), "JPEG")
    job = api.wait(send(api, whole[: len(whole) // 2]).json())

    states = {name: step["state"] for name, step in job["steps"].items()}
    assert states.pop("text") in ("succeeded", "cached")
    assert states == {"logo": "failed", "web": "skipped", "all": "skipped"}
    assert job["steps"]["logo"]["error"]["code"] == "corrupt_image"
    assert "'logo'" in job["steps"]["logo"]["error"]["detail"]


def test_an_unused_logo_and_a_missing_logo_are_named(api):
    logo = picture("red", (40, 40))
    unused = api.http.post(
        "/api/jobs", files={"file": logo, "badge": logo}, data={"steps": '{"a": {"op": "png", "input": "source"}}'}
    )
    missing = api.post("a.png", logo, steps=json.dumps({"w": LOGO}))

    assert [fault["pointer"] for fault in unused.json()["errors"]] == ["/badge"]
    assert [fault["pointer"] for fault in missing.json()["errors"]] == ["/steps/w/image"]


def test_the_openapi_document_describes_further_images(api):
    form = api.http.get("/openapi.json").json()["paths"]["/api/jobs"]["post"]["requestBody"]["content"]

    assert form["multipart/form-data"]["schema"]["additionalProperties"]["format"] == "binary"
