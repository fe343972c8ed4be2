"""The routes of jobs on the real stores. The tests check the answers, and that no route blocks the event loop."""

from __future__ import annotations

import asyncio
import json
import threading
import uuid
from collections.abc import AsyncIterator, Iterator
from datetime import datetime, timedelta

import httpx
import pytest
import redis
from images import photo, saved
from ingress import ingress
from jobs import CHAIN, claim, fail, finish, new_job, submitted
from pydantic import SecretStr

from pixtools.blob_store import BlobStore
from pixtools.database.retention_store import RetentionStore
from pixtools.jobs.submission import IdempotencyScope
from pixtools.jobs.views import Claim
from pixtools.local import redis_server
from pixtools.local.home import Home
from pixtools.local.ports import free_port
from pixtools.local.server import Server
from pixtools.redis.key_reservations import KeyReservations
from pixtools.settings import Settings
from serve.owner import PUBLIC_OWNER

pytestmark = pytest.mark.anyio

PHOTO = saved(photo(), "PNG")
STEPS = json.dumps({"web": {"op": "webp", "input": "source"}, "small": {"op": "jpg", "input": "source"}})


class ObservedBlobStore(BlobStore):
    """A blob store that notes which thread signs each URL."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.signing_threads: list[int] = []

    def url(self, key: str, name: str, media_type: str, now: datetime) -> tuple[str, datetime]:
        self.signing_threads.append(threading.get_ident())
        return super().url(key, name, media_type, now)


@pytest.fixture
def blobs(own_bucket: Settings) -> ObservedBlobStore:
    return ObservedBlobStore(own_bucket)


@pytest.fixture
async def http(own_bucket, pool, blobs) -> AsyncIterator[httpx.AsyncClient]:
    async with ingress(own_bucket, pool, blobs) as http:
        yield http


def running(store, *done: str) -> Claim:
    """Return the claim of a running job of five steps. The steps in `done` have artifacts."""
    claimed = submitted(store, new_job(CHAIN, owner=PUBLIC_OWNER))
    finish(store, claimed, *done)
    return claimed


def partial(store) -> Claim:
    """Return the claim of a job that has ended. The job has results and a dead letter."""
    claimed = running(store, "t", "a", "other")
    fail(store, claimed, "b", settle=True)
    return claimed


async def post(
    http: httpx.AsyncClient, *, key: str | None = None, steps: str = STEPS, wait: str | None = None
) -> httpx.Response:
    headers = ({"Idempotency-Key": key} if key else {}) | ({"Prefer": f"wait={wait}"} if wait else {})
    return await http.post("/api/jobs", files={"file": ("a.png", PHOTO)}, data={"steps": steps}, headers=headers)


async def test_each_route_signs_download_urls_in_a_thread(http, store, blobs):
    """Signing takes CPU time. On the event loop, signing would delay every other request."""
    ended = partial(store).id
    calls = [
        ("GET", f"/api/jobs/{ended}", 200),
        ("GET", f"/api/jobs/{partial(store).id}/events", 200),
        ("POST", f"/api/jobs/{ended}/retry", 202),
        ("POST", f"/api/jobs/{running(store, 'other').id}/cancel", 200),
    ]
    for method, path, status in calls:
        blobs.signing_threads.clear()

        answer = await http.request(method, path)

        assert answer.status_code == status, answer.text
        assert blobs.signing_threads, path
        assert threading.get_ident() not in blobs.signing_threads, path


async def test_a_list_has_summaries_and_signs_nothing(http, store, blobs):
    first, second = partial(store), running(store, "t", "a")

    listed = (await http.get("/api/jobs")).json()

    assert listed["next"] is None
    newest, oldest = listed["jobs"]
    assert (newest["id"], oldest["id"]) == (str(second.id), str(first.id))
    whole = (await http.get(f"/api/jobs/{first.id}")).json()
    del whole["parts"], whole["webhook_url"]
    whole["steps"] = {name: {"op": step["op"], "state": step["state"]} for name, step in whole["steps"].items()}
    assert oldest == whole
    assert list(oldest) == [
        "id", "state", "batch", "created_at", "finished_at", "expires_at", "source", "progress", "steps",
    ]  # fmt: skip
    assert oldest["progress"] == {"done": 5, "total": 5}
    assert newest["steps"]["other"] == {"op": "png", "state": "waiting"}
    blobs.signing_threads.clear()
    await http.get("/api/jobs")
    assert blobs.signing_threads == []


async def test_a_list_is_read_page_by_page_and_by_state(http, store):
    jobs = [str(running(store).id) for _ in range(3)][::-1]
    cancelled = (await http.post(f"/api/jobs/{jobs[1]}/cancel")).json()

    first = (await http.get("/api/jobs", params={"limit": 2})).json()
    second = (await http.get("/api/jobs", params={"limit": 2, "cursor": first["next"]})).json()
    found = (await http.get("/api/jobs", params={"state": "cancelled"})).json()

    assert [job["id"] for job in first["jobs"] + second["jobs"]] == jobs
    assert (first["next"], second["next"]) == (jobs[1], None)
    assert [job["id"] for job in found["jobs"]] == [cancelled["id"]]


@pytest.mark.parametrize("has_key", [False, True])
async def test_the_answer_to_a_submission_is_the_job_as_it_is_read_afterwards(http, has_key):
    answer = await post(http, key=uuid.uuid4().hex if has_key else None)

    assert answer.status_code == 202, answer.text
    assert answer.headers["Location"] == f"/api/jobs/{answer.json()['id']}"
    assert answer.json() == (await http.get(answer.headers["Location"])).json()


async def test_a_repeated_submission_gets_the_first_answer_after_the_job_has_changed(http, store):
    key = uuid.uuid4().hex
    first = await post(http, key=key)
    fail(store, claim(store), "web", "small", settle=True)

    again = await post(http, key=key)

    assert (again.status_code, again.content) == (202, first.content)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert "Idempotency-Replayed" not in first.headers


async def test_many_repetitions_at_once_all_get_the_first_answer(http):
    key = uuid.uuid4().hex
    first = await post(http, key=key)

    answers = await asyncio.gather(*(post(http, key=key) for _ in range(20)))

    assert {(answer.status_code, answer.content) for answer in answers} == {(202, first.content)}


async def test_a_key_cannot_be_used_while_its_first_request_is_accepted(http, settings):
    reservations, key = KeyReservations(settings), uuid.uuid4().hex
    scope = IdempotencyScope(PUBLIC_OWNER, "POST /api/jobs", key)
    token = await reservations.reserve(scope)

    answer = await post(http, key=key)
    assert (answer.status_code, answer.json()["code"]) == (409, "idempotency_key_in_use")
    assert answer.headers["Retry-After"] == "1"

    await reservations.release(scope, token)
    assert (await post(http, key=key)).status_code == 202
    await reservations.close()


async def test_a_key_cannot_be_used_for_another_request(http):
    key = uuid.uuid4().hex
    await post(http, key=key)

    answer = await post(http, key=key, steps='{"other": {"op": "png", "input": "source"}}')

    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")


async def test_accepted_requests_leave_nothing_in_redis(http, settings):
    with redis.Redis.from_url(settings.redis_url.get_secret_value()) as client:
        client.flushall()
        for _ in range(3):
            assert (await post(http, key=uuid.uuid4().hex)).status_code == 202

        assert client.keys() == []


@pytest.fixture
def own_redis(open_folder) -> Iterator[Server]:
    server = redis_server.start(Home(open_folder / "own-redis"), free_port())
    server.wait()
    yield server
    server.stop()


@pytest.mark.parametrize("room", [0, 2_000], ids=["no room", "room for a few reservations"])
async def test_while_redis_is_full_one_key_still_makes_one_job(own_bucket, pool, blobs, database, own_redis, room):
    with redis.Redis.from_url(own_redis.url) as client:
        client.config_set("maxmemory", client.info("memory")["used_memory"] + room if room else 1)
        full = own_bucket.model_copy(update={"redis_url": SecretStr(own_redis.url)})
        keys = [uuid.uuid4().hex for _ in range(4)]
        async with ingress(own_bucket, pool, blobs, redis=full) as http:

            async def send(key: str) -> tuple[str, bytes]:
                while (answer := await post(http, key=key)).status_code == 409:
                    await asyncio.sleep(0.1)
                assert answer.status_code == 202, answer.text
                return key, answer.content

            answers = await asyncio.gather(*(send(key) for key in keys * 5))

        refused = client.info("errorstats").get("errorstat_OOM", {"count": 0})["count"]
        assert refused + client.info("stats")["evicted_keys"] > 0, "Redis was not full"
    assert len(set(answers)) == len(keys)
    assert database.execute("SELECT count(*) FROM job").fetchone()[0] == len(keys)


async def test_an_empty_field_of_a_form_is_not_sent(http):
    """HTML forms also send the fields that the user left empty. The form of Swagger UI does this too."""
    form = {"steps": STEPS, "operations": "", "operation_params": ""}
    answer = await http.post("/api/jobs", files={"file": ("a.png", PHOTO)}, data=form)
    assert answer.status_code == 202, answer.text

    for twice in (["", STEPS], [STEPS, ""]):
        answer = await http.post("/api/jobs", files={"file": ("a.png", PHOTO)}, data={"steps": twice})
        assert answer.status_code == 202, answer.text

    answer = await http.post("/api/jobs", files={"file": ("a.png", PHOTO)}, data={"steps": "", "operations": ""})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (400, "/steps")


async def test_a_retry_runs_failed_steps_again_and_is_safe_to_repeat(http, store):
    job = partial(store).id

    answers = [await http.post(f"/api/jobs/{job}/retry") for _ in range(2)]

    assert [answer.status_code for answer in answers] == [202, 202]
    assert [answer.json()["state"] for answer in answers] == ["queued", "queued"]
    states = {name: step["state"] for name, step in answers[0].json()["steps"].items()}
    assert states == {"t": "succeeded", "a": "succeeded", "b": "waiting", "z": "waiting", "other": "succeeded"}


async def test_a_job_whose_dead_letters_were_discarded_has_nothing_to_retry(http, store):
    job = partial(store).id
    (letter,) = (await http.get("/api/dead-letters", params={"job": str(job)})).json()["dead_letters"]
    assert (await http.delete(f"/api/dead-letters/{letter['id']}")).status_code == 204

    answer = await http.post(f"/api/jobs/{job}/retry")

    assert (answer.status_code, answer.json()["code"]) == (409, "nothing_to_retry")


async def test_a_job_that_does_not_exist_is_not_found_by_any_route(http):
    path = f"/api/jobs/{uuid.uuid4()}"

    for method, action in (("GET", ""), ("GET", "/events"), ("POST", "/cancel"), ("POST", "/retry")):
        answer = await http.request(method, path + action)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_a_reader_who_has_seen_the_end_of_a_job_is_sent_no_event(http, store):
    path = f"/api/jobs/{partial(store).id}/events"
    (number,) = [line for line in (await http.get(path)).text.splitlines() if line.startswith("id: ")]

    answer = await http.get(path, headers={"Last-Event-ID": number.removeprefix("id: ")})

    assert (answer.status_code, answer.content) == (204, b"")


async def test_the_openapi_document_describes_the_summaries_of_a_list(http):
    document = (await http.get("/openapi.json")).json()

    listed = document["paths"]["/api/jobs"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert listed == {"$ref": "#/components/schemas/JobList"}
    schemas = document["components"]["schemas"]
    assert schemas["JobList"]["properties"]["jobs"]["items"] == {"$ref": "#/components/schemas/JobSummaryAnswer"}
    assert schemas["StepSummaryAnswer"]["properties"].keys() == {"op", "state"}
    assert schemas["JobSummaryAnswer"]["properties"]["steps"]["additionalProperties"] == {
        "$ref": "#/components/schemas/StepSummaryAnswer"
    }


# ETags


async def test_an_unchanged_job_is_answered_with_304(http, store):
    claimed = running(store, "t", "a", "other")
    first = await http.get(f"/api/jobs/{claimed.id}")
    known = {"If-None-Match": f'"other", W/{first.headers["etag"]}'}
    unchanged = await http.get(f"/api/jobs/{claimed.id}", headers=known)
    if unchanged.status_code == 200:  # a new minute has begun
        known = {"If-None-Match": unchanged.headers["etag"]}
        unchanged = await http.get(f"/api/jobs/{claimed.id}", headers=known)
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert unchanged.headers["etag"] in known["If-None-Match"]

    await asyncio.to_thread(fail, store, claimed, "b", settle=True)
    changed = await http.get(f"/api/jobs/{claimed.id}", headers=known)
    assert changed.status_code == 200
    assert changed.json()["state"] == "partial"


async def test_urls_are_signed_again_in_time(http, store, blobs, monkeypatch):
    job_id = partial(store).id
    read = [await http.get(f"/api/jobs/{job_id}") for _ in range(2)]
    moment = blobs.signing_time()
    monkeypatch.setattr(blobs, "signing_time", lambda: moment + timedelta(minutes=2))
    later = await http.get(f"/api/jobs/{job_id}", headers={"If-None-Match": read[1].headers["etag"]})

    assert later.status_code == 200
    urls = [answer.json()["steps"]["a"]["artifact"]["url"] for answer in (*read, later)]
    assert urls[1] != urls[2]
    expiry = datetime.fromisoformat(later.json()["steps"]["a"]["artifact"]["url_expires_at"])
    assert expiry == moment + timedelta(minutes=17)


async def test_a_job_with_a_lost_file_has_no_etag_because_the_file_may_be_made_again(http, store, pool):
    claimed = partial(store)
    blob_key = store.get(PUBLIC_OWNER, claimed.id).artifacts["a"].blob_key
    assert "etag" in (await http.get(f"/api/jobs/{claimed.id}")).headers
    RetentionStore(pool).mark_lost(blob_key)

    answer = await http.get(f"/api/jobs/{claimed.id}")
    assert "etag" not in answer.headers
    assert answer.json()["steps"]["a"]["error"]["code"] == "artifact_lost"


# Waiting


async def test_a_submission_that_waits_is_answered_with_the_ended_job(http, store):
    posting = asyncio.create_task(post(http, wait="30"))
    while not (claims := await asyncio.to_thread(store.claim, "test", 1)):
        await asyncio.sleep(0.05)
    assert not posting.done()
    await asyncio.to_thread(finish, store, claims[0], "web", "small", settle=True)

    answer = await posting
    assert (answer.status_code, answer.headers["preference-applied"]) == (202, "wait=30")
    assert answer.headers["location"] == f"/api/jobs/{claims[0].id}"
    assert answer.json()["state"] == "succeeded"
    assert all(step["artifact"]["url"] for step in answer.json()["steps"].values())


async def test_a_repeated_submission_that_waits_gets_the_present_job(http, store):
    first = await post(http, key="k")
    await asyncio.to_thread(store.cancel, PUBLIC_OWNER, uuid.UUID(first.json()["id"]))

    again = await post(http, key="k", wait="30")
    assert again.headers["idempotency-replayed"] == "true"
    assert again.json()["state"] == "cancelled"


async def test_a_read_waits_until_the_job_has_ended(http, store):
    claimed = running(store, "t", "a", "other")
    reading = asyncio.create_task(http.get(f"/api/jobs/{claimed.id}", headers={"Prefer": "wait=30"}))
    await asyncio.sleep(0.2)
    assert not reading.done()
    await asyncio.to_thread(fail, store, claimed, "b", settle=True)

    answer = await reading
    assert answer.json()["state"] == "partial"
    assert answer.headers["preference-applied"] == "wait=30"


@pytest.mark.parametrize("seconds", ["0", "1"])
async def test_after_the_time_the_answer_is_the_running_job(http, store, seconds):
    claimed = running(store, "t")
    answer = await http.get(f"/api/jobs/{claimed.id}", headers={"Prefer": f"wait={seconds}"})
    assert answer.json()["state"] == "running"
    assert answer.headers["preference-applied"] == f"wait={seconds}"


async def test_without_capacity_to_wait_the_answer_comes_at_once(http, store, monkeypatch):
    monkeypatch.setattr("serve.progress._MAX_WATCHERS", 0)
    job_id = running(store, "t").id
    answers = [await http.get(f"/api/jobs/{job_id}", headers={"Prefer": "wait=60"}), await post(http, wait="60")]
    assert [answer.status_code for answer in answers] == [200, 202]
    assert not any("preference-applied" in answer.headers for answer in answers)


async def test_a_preference_that_is_not_understood_is_ignored(http):
    answer = await post(http, wait="soon")
    assert answer.status_code == 202
    assert "preference-applied" not in answer.headers


async def test_a_second_read_of_an_unchanged_job_loads_no_steps(http, store, blobs, monkeypatch):
    job_id, moment = partial(store).id, blobs.signing_time()
    monkeypatch.setattr(blobs, "signing_time", lambda: moment)
    blobs.signing_threads.clear()
    answers = [await http.get(f"/api/jobs/{job_id}") for _ in range(3)]
    assert len(blobs.signing_threads) == sum(
        step["artifact"] is not None for step in answers[0].json()["steps"].values()
    )
    assert len({answer.content for answer in answers}) == 1
