"""The routes of webhook endpoints and deliveries, on the real stores and without Ray."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta

import httpx
import pytest
from images import photo, saved
from ingress import ingress
from jobs import claim, finish, new_job, submit
from pydantic import SecretStr
from webhooks import BROKEN, GONE, OK, attempted, claim_all, listed

from pixtools.blob_store import BlobStore
from pixtools.database.endpoint_store import MAX_ENDPOINTS
from pixtools.webhooks.vault import Vault
from serve.owner import PUBLIC_OWNER

pytestmark = pytest.mark.anyio

KEYS = SecretStr("k" * 32)
URL = "https://receiver.example/hook"
PHOTO = saved(photo(8, 6), "PNG")
STEPS = '{"a": {"op": "webp", "input": "source"}}'


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
async def http(settings, pool) -> AsyncIterator[httpx.AsyncClient]:
    async with ingress(settings.model_copy(update={"webhook_keys": KEYS}), pool, BlobStore(settings)) as http:
        yield http


@pytest.fixture
def end_job(store):
    def end() -> uuid.UUID:
        submit(store, new_job(owner=PUBLIC_OWNER, webhook_url=URL))
        finish(store, claimed := claim(store), "a", settle=True)
        return claimed.id

    return end


async def register(http: httpx.AsyncClient, **fields: object) -> dict:
    answer = await http.post("/api/webhooks", json={"url": URL} | fields)
    assert answer.status_code == 201, answer.text
    assert answer.headers["location"] == f"/api/webhooks/{answer.json()['id']}"
    return answer.json()


def faults(answer: httpx.Response) -> dict[str, str]:
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return {fault["pointer"]: fault["detail"] for fault in answer.json()["errors"]}


# Endpoints


async def test_a_new_endpoint_gets_the_ends_of_jobs_and_shows_its_secret_once(http):
    endpoint = await register(http)
    secret = endpoint.pop("secret")

    assert secret.startswith("whsec_")
    assert endpoint["events"] == ["job.succeeded", "job.partial", "job.failed", "job.cancelled"]
    assert endpoint["circuit"] == {"state": "closed", "failures": 0, "retry_at": None}
    assert (endpoint["enabled"], endpoint["include_urls"], endpoint["disabled_reason"]) == (True, False, None)
    assert (await http.get(f"/api/webhooks/{endpoint['id']}")).json() == endpoint
    listing = await http.get("/api/webhooks")
    assert listing.json() == {"webhooks": [endpoint]}
    assert "whsec" not in listing.text


async def test_the_url_is_stored_in_its_usual_spelling(http):
    assert (await register(http, url="HTTPS://Receiver.Example:443/a?b#c"))["url"] == "https://receiver.example/a?b"


@pytest.mark.parametrize(
    "url",
    ["", "receiver", "ftp://x.example", "https://u:p@x.example", "http://127.0.0.1/", "http://0x7f.1/", "http://[::1]/",
     "http://169.254.169.254/latest", "http://localhost:8000/", "https://x.example/" + "a" * 3_000],
)  # fmt: skip
async def test_a_url_that_cannot_be_used_is_refused_with_a_reason(http, url):
    assert list(faults(await http.post("/api/webhooks", json={"url": url}))) == ["/body/url"]
    endpoint = await register(http)
    assert list(faults(await http.patch(f"/api/webhooks/{endpoint['id']}", json={"url": url}))) == ["/body/url"]
    form = {"steps": STEPS, "webhook_url": url}
    if url:
        answer = await http.post("/api/jobs", files={"file": ("a.png", PHOTO)}, data=form)
        assert list(faults(answer)) == ["/webhook_url"]


@pytest.mark.parametrize(
    ("form", "field"),
    [
        ({"events": []}, "events"),
        ({"events": ["job.lost"]}, "events/0"),
        ({"events": ["webhook.test"]}, "events/0"),
        ({"description": "x" * 201}, "description"),
        ({"enabled": "perhaps"}, "enabled"),
        ({"secret": "mine"}, "secret"),
    ],
)
async def test_each_mistake_is_named(http, form, field):
    endpoint = await register(http)

    assert list(faults(await http.post("/api/webhooks", json={"url": URL} | form))) == [f"/body/{field}"]
    assert list(faults(await http.patch(f"/api/webhooks/{endpoint['id']}", json=form))) == [f"/body/{field}"]


async def test_thousands_of_unknown_fields_are_one_mistake(http):
    endpoint = await register(http)
    many = {f"x{number}": 0 for number in range(2_000)}

    for method, path in (
        ("POST", "/api/webhooks"),
        ("PATCH", f"/api/webhooks/{endpoint['id']}"),
        ("POST", "/api/deliveries/replay"),
    ):
        assert len(faults(await http.request(method, path, json=many))) == 1


async def test_an_endpoint_can_be_changed_and_deleted(http):
    endpoint = await register(http)
    path = f"/api/webhooks/{endpoint['id']}"
    change = {"description": "d", "enabled": False, "events": ["dead_letter.created"], "include_urls": True}

    changed = (await http.patch(path, json=change)).json()
    assert {name: changed[name] for name in change} == change
    assert changed["url"] == URL
    assert (await http.delete(path)).status_code == 204
    for answer in (await http.get(path), await http.delete(path), await http.patch(path, json={})):
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_a_body_without_its_content_type_is_told_to_have_one(http):
    answer = await http.post("/api/webhooks", content=json.dumps({"url": URL}))

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/body"
    assert "Content-Type: application/json" in answer.json()["errors"][0]["detail"]


async def test_an_unknown_event_gets_the_list_of_events_and_a_repeated_event_counts_once(http):
    answer = await http.post("/api/webhooks", json={"url": URL, "events": ["job.done"]})
    assert "'job.succeeded', 'job.partial'" in answer.json()["errors"][0]["detail"]

    twice = await register(http, events=["job.failed", "job.failed"])
    assert twice["events"] == ["job.failed"]


@pytest.mark.parametrize("description", ["a\0b", "a\nb", "\x1b[2J", "x" * 201])
async def test_a_description_has_no_control_characters(http, description):
    answer = await http.post("/api/webhooks", json={"url": URL, "description": description})

    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/body/description")


async def test_too_many_endpoints_are_refused(http):
    for _ in range(MAX_ENDPOINTS):
        await register(http)
    answer = await http.post("/api/webhooks", json={"url": URL})

    assert (answer.status_code, answer.json()["code"]) == (409, "too_many_endpoints")


async def test_a_rotation_shows_the_new_secret_and_how_long_the_old_one_lives(http, deliveries, end_job):
    endpoint = await register(http)
    rotated = (await http.post(f"/api/webhooks/{endpoint['id']}/rotate-secret")).json()
    end_job()
    (claimed,) = [each for each in claim_all(deliveries) if each.record.endpoint_id]

    assert rotated["previous_secret_until"] is not None
    assert [Vault(KEYS).decrypt(each) for each in claimed.secrets] == [rotated["secret"], endpoint["secret"]]


async def test_the_secret_of_webhook_urls_can_be_rotated(http, deliveries, end_job):
    first = (await http.post("/api/webhook-secret/rotate")).json()
    second = (await http.post("/api/webhook-secret/rotate")).json()
    end_job()
    (claimed,) = claim_all(deliveries)

    assert (first["previous_secret_until"], second["previous_secret_until"] is None) == (None, False)
    assert [Vault(KEYS).decrypt(each) for each in claimed.secrets] == [second["secret"], first["secret"]]


async def test_a_test_is_a_delivery(http, deliveries):
    endpoint = await register(http)
    sent = await http.post(f"/api/webhooks/{endpoint['id']}/test")

    assert sent.status_code == 202
    assert (sent.json()["event"], sent.json()["state"], sent.json()["job"]) == ("webhook.test", "waiting", None)
    assert (await http.get(sent.headers["location"])).json() == sent.json()
    assert [each.record.event for each in claim_all(deliveries)] == ["webhook.test"]


async def test_without_a_key_the_service_says_what_to_set(settings, pool):
    async with ingress(settings, pool, BlobStore(settings)) as http:
        form = {"steps": STEPS, "webhook_url": URL}
        answers = [
            await http.post("/api/webhooks", json={"url": URL}),
            await http.post("/api/webhook-secret/rotate"),
            await http.post("/api/jobs", files={"file": ("a.png", PHOTO)}, data=form),
        ]

    for answer in answers:
        assert (answer.status_code, answer.json()["code"]) == (503, "webhooks_off")
        assert "PIXTOOLS_WEBHOOK_KEYS" in answer.json()["detail"]


# Jobs


async def test_a_job_shows_its_webhook_url(http):
    form = {"steps": STEPS, "webhook_url": URL}
    accepted = await http.post("/api/jobs", files={"file": ("a.png", PHOTO)}, data=form)

    assert (accepted.status_code, accepted.json()["webhook_url"]) == (202, URL)
    assert (await http.get(accepted.headers["location"])).json()["webhook_url"] == URL


async def test_the_same_key_with_another_webhook_url_is_another_request(http):
    async def send(url: str) -> httpx.Response:
        form = {"steps": STEPS, "webhook_url": url}
        headers = {"Idempotency-Key": "k"}
        return await http.post("/api/jobs", files={"file": ("a.png", PHOTO)}, data=form, headers=headers)

    first, again, other = await send(URL), await send(URL), await send("https://other.example/")
    assert (first.status_code, again.content == first.content) == (202, True)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


# Deliveries


async def test_deliveries_are_listed_page_by_page(http, end_job):
    jobs = [str(end_job()) for _ in range(3)]
    first = (await http.get("/api/deliveries?limit=2")).json()
    second = (await http.get(f"/api/deliveries?limit=2&cursor={first['next']}")).json()

    assert [each["job"] for each in first["deliveries"] + second["deliveries"]] == jobs[::-1]
    assert second["next"] is None
    assert [each["job"] for each in (await http.get(f"/api/deliveries?job={jobs[0]}")).json()["deliveries"]] == jobs[:1]
    assert (await http.get("/api/deliveries?state=failed")).json()["deliveries"] == []
    assert list(faults(await http.get("/api/deliveries?state=lost"))) == ["/query/state"]


async def test_a_delivery_shows_its_data_and_its_attempts(http, deliveries, end_job):
    job = end_job()
    (claimed,) = claim_all(deliveries)
    deliveries.record([attempted(claimed, BROKEN)])
    shown = (await http.get(f"/api/deliveries/{claimed.record.id}")).json()

    assert (shown["state"], shown["attempts"], shown["data"]["job_id"]) == ("waiting", 1, str(job))
    assert shown["next_attempt_at"] > shown["created_at"]
    (attempt,) = shown["history"]
    assert (attempt["number"], attempt["status"], attempt["answer"], attempt["ms"]) == (1, 500, "oops", 12)


async def test_an_ended_delivery_can_be_replayed(http, deliveries, end_job):
    end_job()
    (claimed,) = claim_all(deliveries)
    path = f"/api/deliveries/{claimed.record.id}/replay"
    assert (await http.post(path)).json()["code"] == "delivery_pending"
    deliveries.record([attempted(claimed, OK)])

    replayed = await http.post(path)
    assert (replayed.status_code, replayed.json()["state"]) == (202, "waiting")
    assert (await http.post(f"/api/deliveries/{uuid.uuid4()}/replay")).status_code == 404


async def test_selected_deliveries_can_be_replayed(http, deliveries, end_job):
    for _ in range(3):
        end_job()
    deliveries.record([attempted(each, GONE) for each in claim_all(deliveries, limit=2)])

    assert (await http.post("/api/deliveries/replay", json={"state": "delivered"})).json() == {"deliveries": 0}
    answer = await http.post("/api/deliveries/replay", json={"state": "failed"})
    assert (answer.status_code, answer.json()) == (202, {"deliveries": 2})
    assert {each.state for each in listed(deliveries, PUBLIC_OWNER)} == {"waiting"}


@pytest.mark.parametrize("form", [{}, {"all": True, "state": "failed"}, {"state": "waiting"}, {"owner": "x"}])
async def test_a_replay_without_a_clear_selection_is_refused(http, form):
    assert faults(await http.post("/api/deliveries/replay", json=form))


async def test_a_dead_letter_of_a_delivery_can_be_redriven(http, deliveries, end_job):
    job = end_job()
    (claimed,) = claim_all(deliveries)
    deliveries.record([attempted(claimed, GONE)])
    (letter,) = (await http.get("/api/dead-letters")).json()["dead_letters"]

    assert (letter["kind"], letter["step"], letter["op"]) == ("delivery", None, None)
    assert (letter["delivery"], letter["url"], letter["job"]) == (str(claimed.record.id), URL, str(job))
    assert (await http.post(f"/api/dead-letters/{letter['id']}/redrive")).json() == {"dead_letters": 1}


async def test_a_dead_letter_of_a_delivery_can_be_discarded(http, deliveries, end_job):
    end_job()
    (claimed,) = claim_all(deliveries)
    deliveries.record([attempted(claimed, GONE)])
    (letter,) = (await http.get("/api/dead-letters")).json()["dead_letters"]

    assert (await http.delete(f"/api/dead-letters/{letter['id']}")).status_code == 204
    assert [each.state for each in listed(deliveries, PUBLIC_OWNER)] == ["discarded"]
    assert deliveries.delete_old(timedelta(0)) == 1
