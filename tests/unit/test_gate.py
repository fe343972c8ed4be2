"""The gate in front of a small ASGI application: which requests pass, and how the others are refused."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field

import httpx
import pytest
from fastapi import FastAPI
from pydantic import BaseModel
from virtual_time import VirtualTimeLoop

from pixtools.settings import HttpSettings
from serve import problems
from serve.gate import Gate

pytestmark = pytest.mark.anyio

OWN = {"host": "127.0.0.1:8000"}
CLIENT = "203.0.113.5"


@pytest.fixture
def anyio_backend() -> tuple[str, dict]:
    """Run the tests on a loop whose clock jumps to the next timer, so that deadlines pass at once."""
    return "asyncio", {"loop_factory": VirtualTimeLoop}


@dataclass
class Exchange:
    """One request to an ASGI application. `chunks` are the pieces of its body. After the last one nothing comes."""

    method: str = "GET"
    path: str = "/api/livez"
    headers: dict[str, str] | list[tuple[str, str]] = field(default_factory=dict)
    chunks: list[bytes] = field(default_factory=list)
    complete: bool = True
    client: str = CLIENT
    pause_s: float = 0.0
    scheme: str = "http"
    messages: list[dict] = field(default_factory=list)
    reads: int = 0

    async def send_to(self, app) -> Exchange:
        pairs = self.headers.items() if isinstance(self.headers, dict) else self.headers
        scope = {
            "type": "http",
            "method": self.method,
            "path": self.path,
            "raw_path": self.path.encode(),
            "query_string": b"",
            "scheme": self.scheme,
            "root_path": "",
            "http_version": "1.1",
            "client": (self.client, 1234),
            "server": ("127.0.0.1", 8000),
            "headers": [(name.lower().encode(), value.encode()) for name, value in pairs],
        }
        pending = list(self.chunks)

        async def receive() -> dict:
            self.reads += 1
            await asyncio.sleep(self.pause_s)
            if pending:
                body = pending.pop(0)
                return {"type": "http.request", "body": body, "more_body": bool(pending) or not self.complete}
            if self.complete and self.reads == 1:
                return {"type": "http.request", "body": b"", "more_body": False}
            return await asyncio.get_running_loop().create_future()

        async def send(message: dict) -> None:
            self.messages.append(message)

        await app(scope, receive, send)
        return self

    @property
    def status(self) -> int:
        return self.messages[0]["status"]

    @property
    def answer_headers(self) -> dict[str, str]:
        return {name.decode().lower(): value.decode() for name, value in self.messages[0]["headers"]}

    @property
    def problem(self) -> dict:
        assert self.answer_headers["content-type"] == "application/problem+json"
        assert [message["type"] for message in self.messages] == ["http.response.start", "http.response.body"]
        problem = json.loads(self.messages[1]["body"])
        assert problem["status"] == self.status
        return problem


async def reading(_scope, receive, send) -> None:
    """Read the whole body, then answer 200 with its size. Answer 499 if the client leaves, as Serve does."""
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            await send({"type": "http.response.start", "status": 499, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        size += len(message["body"])
        more = message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(size).encode()})


def gate(app=reading, **settings: object) -> Gate:
    return Gate(app, HttpSettings(**settings))


async def status(target: Gate, **request: object) -> int:
    return (await Exchange(**{"headers": OWN, **request}).send_to(target)).status


# Host


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "localhost:8000", "LOCALHOST", "localhost.", "127.0.0.1:8000", "127.9.9.9", "[::1]:8000", "[::1]",
        "pix.example", "Pix.Example:444", "10.1.2.3:8000",
    ],
)  # fmt: skip
async def test_the_names_of_the_service_are_accepted(host):
    target = gate(host="10.1.2.3", public_hosts="pix.example:8443, other.example")

    assert await status(target, headers={"host": host}) == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "10.1.2.4", "[fe80::1]", "127.1", "2130706433", "0.0.0.0", "example"],
)
async def test_any_other_name_is_refused_with_the_setting_that_allows_it(host):
    answer = await Exchange(headers={"host": host}).send_to(gate(host="0.0.0.0"))

    assert (answer.status, answer.problem["code"]) == (421, "foreign_host")
    assert "PIXTOOLS_PUBLIC_HOSTS" in answer.problem["detail"]
    assert answer.answer_headers["cache-control"] == "no-store"
    assert answer.reads == 0


@pytest.mark.parametrize(
    "headers",
    [[], [("host", "localhost"), ("host", "localhost")], [("host", "")], [("host", "localhost/x")],
     [("host", "localhost,evil.example")], [("host", "user@localhost")], [("host", "localhost:80:80")],
     [("host", "x" * 300)]],
)  # fmt: skip
async def test_a_host_header_that_is_missing_repeated_or_absurd_is_refused(headers):
    answer = await Exchange(headers=headers).send_to(gate())

    assert (answer.status, answer.problem["code"]) == (400, "bad_request")


async def test_the_health_check_of_a_load_balancer_needs_no_host():
    for path in ("/-/healthz", "/metrics"):
        assert await status(gate(), path=path, headers={}) == 200


# Cross-site requests

SUBMIT = {"method": "POST", "path": "/api/jobs"}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "http://127.0.0.1:8000"},
        {"origin": "http://127.0.0.1:8000", "sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "none"},
        {"origin": "https://pix.example"},
        {"host": "pix.example", "origin": "https://pix.example"},
        {"host": "pix.example:443", "origin": "https://pix.example"},
        {"host": "localhost", "origin": "http://localhost:80"},
    ],
)
async def test_requests_of_the_page_and_of_programs_pass(headers):
    assert await status(gate(public_hosts="pix.example"), **SUBMIT, headers={**OWN, **headers}) == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": ""},
        {"origin": "http://127.0.0.1:8001"},
        {"origin": "http://127.0.0.1"},
        {"origin": "http://localhost:8000"},
        {"origin": "http://127.0.0.1:8000.evil.example"},
        {"origin": "file://127.0.0.1:8000"},
        {"origin": "https://pix.example:444"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "http://127.0.0.1:8000", "sec-fetch-site": "cross-site"},
    ],
)
@pytest.mark.parametrize("method", ["POST", "DELETE", "PUT"])
async def test_a_foreign_page_cannot_change_anything(method, headers):
    request = Exchange(method=method, path="/api/jobs", headers={**OWN, **headers})
    answer = await request.send_to(gate(public_hosts="pix.example"))

    assert (answer.status, answer.problem["code"]) == (403, "foreign_origin")


async def test_an_origin_without_tls_is_foreign_to_a_service_with_tls():
    headers = {"host": "localhost", "origin": "http://localhost"}

    assert await status(gate(), **SUBMIT, scheme="https", headers=headers) == 403


async def test_a_foreign_page_can_link_to_the_service_but_not_load_its_data():
    foreign = {**OWN, "sec-fetch-site": "cross-site"}
    link = {**foreign, "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    frame = {**foreign, "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"}

    assert await status(gate(), path="/api/jobs/x/events", headers={**foreign, "sec-fetch-mode": "no-cors"}) == 403
    assert await status(gate(), path="/api/jobs/x/events", headers=frame) == 403
    assert await status(gate(), path="/api/jobs", headers=link) == 200
    assert await status(gate(), path="/", headers=foreign) == 200


# Bodies


async def test_a_body_above_the_limit_is_refused_before_it_is_read():
    small = await Exchange(
        "POST", "/api/dead-letters/redrive", {**OWN, "content-length": "65537"}, [b"x"], complete=False
    ).send_to(gate())
    upload = await Exchange(**SUBMIT, headers={**OWN, "content-length": "2001001"}, chunks=[b"x"]).send_to(
        gate(max_upload_bytes=1_001_000)
    )

    assert (small.problem["code"], small.status, small.reads) == ("body_too_large", 413, 0)
    assert (upload.problem["code"], upload.status, upload.reads) == ("upload_too_large", 413, 0)
    assert "PIXTOOLS_MAX_UPLOAD_BYTES" in upload.problem["detail"]


async def test_a_body_without_a_length_is_counted_while_it_arrives():
    chunked = {**OWN, "transfer-encoding": "chunked"}
    enough = await Exchange("POST", "/api/x", chunked, [b"x" * 32_768] * 2).send_to(gate())
    too_much = await Exchange("POST", "/api/x", chunked, [b"x" * 32_768] * 2 + [b"x"] * 10).send_to(gate())

    assert (enough.status, enough.messages[1]["body"]) == (200, b"65536")
    assert (too_much.status, too_much.problem["code"], too_much.reads) == (413, "body_too_large", 3)


class Form(BaseModel):
    name: str


async def test_a_json_route_answers_413_and_not_another_error():
    app = FastAPI()
    problems.install(app)

    @app.post("/api/form")
    async def form(form: Form) -> str:
        return form.name

    async def chunks():
        yield b'{"name": "'
        for _ in range(20):
            yield b"x" * 10_000

    transport = httpx.ASGITransport(Gate(app, HttpSettings()))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
        answer = await http.post("/api/form", content=chunks(), headers={"Content-Type": "application/json"})

    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


async def test_a_body_that_stops_is_given_up_after_ten_seconds():
    loop = asyncio.get_running_loop()
    began = loop.time()
    headers = {**OWN, "content-length": "100"}
    answer = await Exchange(**SUBMIT, headers=headers, chunks=[b"x"], complete=False).send_to(gate())

    assert (answer.status, answer.problem["code"]) == (408, "body_timed_out")
    assert "PIXTOOLS_BODY_TIMEOUT" in answer.problem["detail"]
    assert answer.answer_headers["connection"] == "close"
    assert 10 <= loop.time() - began < 11


async def test_a_body_that_trickles_is_given_up_after_the_timeout():
    loop = asyncio.get_running_loop()
    began = loop.time()
    headers = {**OWN, "content-length": "100"}
    slow = Exchange(**SUBMIT, headers=headers, chunks=[b"x"] * 100, pause_s=3)
    answer = await slow.send_to(gate(body_timeout=20))

    assert answer.status == 408
    assert 20 <= loop.time() - began < 21


async def test_waiting_for_the_end_of_a_request_has_no_deadline():
    """An application reads on after the body, to notice that the client has left."""

    async def patient(_scope, receive, send) -> None:
        await receive()
        left = asyncio.ensure_future(receive())
        await asyncio.wait({left}, timeout=300)
        assert not left.done()
        left.cancel()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    assert await status(gate(patient), **SUBMIT, headers={**OWN, "content-length": "1"}, chunks=[b"x"]) == 200


async def test_a_client_that_expects_100_is_disconnected_after_a_refusal():
    """It may or may not send the body, so the next bytes may be a body or a request."""
    headers = {**OWN, "content-length": "70000", "expect": "100-continue"}
    answer = await Exchange("POST", "/api/x", headers).send_to(gate())

    assert (answer.status, answer.answer_headers["connection"]) == (413, "close")


# Places


class Busy:
    """An application that answers when `release` is set."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.open = 0

    async def __call__(self, _scope, receive, send) -> None:
        await receive()
        self.open += 1
        await self.release.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


async def start(target: Gate, *requests: Exchange) -> list[asyncio.Task]:
    tasks = [asyncio.create_task(request.send_to(target)) for request in requests]
    for _ in range(5):
        await asyncio.sleep(0)
    return tasks


@pytest.mark.parametrize(
    ("path", "setting"),
    [("/api/livez", "max_client_requests"), ("/api/jobs/x/events", "max_client_streams")],
)
async def test_a_client_has_a_bounded_number_of_open_requests(path, setting):
    busy = Busy()
    target = gate(busy, **{setting: 3})
    tasks = await start(target, *(Exchange(path=path, headers=OWN) for _ in range(3)))
    refused = await Exchange(path=path, headers=OWN).send_to(target)
    others = await start(
        target,
        Exchange(path=path, headers=OWN, client="203.0.113.6"),
        Exchange(path="/api/other" if "streams" in setting else "/api/jobs/x/events", headers=OWN),
    )

    assert (refused.status, refused.problem["code"]) == (429, "too_many_requests")
    assert f"PIXTOOLS_{setting.upper()}" in refused.problem["detail"]
    assert refused.answer_headers["retry-after"] == "1"
    assert busy.open == 5
    busy.release.set()
    await asyncio.gather(*tasks, *others)
    assert await status(target, path=path) == 200
    assert not target._requests
    assert not target._streams


async def test_a_waiting_request_takes_the_place_of_an_event_stream():
    busy = Busy()
    target = gate(busy, max_client_streams=2, max_client_requests=3)
    seen = []

    async def app(scope, receive, send):
        seen.append([value for name, value in scope["headers"] if name == b"prefer"])
        await busy(scope, receive, send)

    target._app = app
    waiting = {"path": "/api/jobs/1", "headers": {**OWN, "Prefer": "respond-async, wait=9"}}
    tasks = await start(target, *(Exchange(**waiting) for _ in range(5)))
    assert busy.open == 5
    assert seen == [[b"respond-async, wait=9"]] * 2 + [[]] * 3  # three requests got no place, so they must not wait
    assert await status(target, **waiting) == 429
    other = {"path": "/api/livez", "headers": {**OWN, "Prefer": "wait=9"}}
    assert await status(target, **other) == 429  # it waits for no job
    busy.release.set()
    await asyncio.gather(*tasks)


async def test_the_64_bits_that_an_ipv6_client_may_choose_do_not_give_it_more_places():
    busy = Busy()
    target = gate(busy, max_client_requests=1)
    (task,) = await start(target, Exchange(headers=OWN, client="2001:db8::1"))

    assert await status(target, client="2001:db8::2") == 429
    busy.release.set()
    assert await status(target, client="2001:db8:0:1::2") == 200
    await task


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("203.0.113.5", ["198.51.100.1"], "203.0.113.5"),  # not a proxy: anyone can write this header
        ("10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["6.6.6.6, 198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["6.6.6.6", "198.51.100.1, 10.0.0.2"], "198.51.100.1"),
        ("10.0.0.1", ["198.51.100.1:4711"], "198.51.100.1"),
        ("10.0.0.1", ["[2001:db8::1]:4711"], "2001:db8::/64"),
        ("10.0.0.1", ["198.51.100.1, nonsense"], "10.0.0.1"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("::ffff:203.0.113.5", [], "203.0.113.5"),
    ],
)
async def test_the_client_is_the_last_address_that_a_trusted_proxy_does_not_vouch_for(peer, forwarded, client):
    busy = Busy()
    target = gate(busy, trusted_proxies="10.0.0.0/24")
    headers = [*OWN.items(), *(("x-forwarded-for", value) for value in forwarded)]
    tasks = await start(target, Exchange(headers=headers, client=peer))

    assert list(target._requests) == [client]
    busy.release.set()
    await asyncio.gather(*tasks)


# Bytes


def upload(size: int, client: str = CLIENT) -> Exchange:
    headers = {**OWN, "content-length": str(size)}
    return Exchange(**SUBMIT, headers=headers, chunks=[b"x" * size], client=client)


def uploads_of(*counts: int) -> list[Exchange]:
    """Return uploads of 20 MB. Each number of `counts` stands for one client."""
    return [upload(20_000_000, f"203.0.113.{n}") for n, count in enumerate(counts) for _ in range(count)]


async def test_large_bodies_wait_for_bytes_and_small_bodies_do_not_wait_for_them():
    busy = Busy()
    target = gate(busy)
    large = uploads_of(6, 6, 1)
    tasks = await start(target, *large)
    assert busy.open == 12  # each reserves 2 MB of 24 MB
    assert large[12].reads == 0  # so that TCP pauses the client

    small = await start(target, *(upload(1_000_000, f"203.0.113.{n}") for n in range(20)))
    assert busy.open == 12 + 8

    await asyncio.gather(tasks[12], *small[8:])
    assert (large[12].status, large[12].problem["code"]) == (503, "overloaded")
    assert large[12].answer_headers["retry-after"] == "2"
    busy.release.set()
    await asyncio.gather(*tasks, *small)
    assert (
        await status(target, **SUBMIT, headers={**OWN, "content-length": "20000000"}, chunks=[b"x" * 20_000_000]) == 200
    )
    assert target._large._free == target._large._total
    assert target._small._free == target._small._total
    assert not target._large._open


async def test_a_slow_body_gives_its_bytes_to_bodies_that_wait():
    target = gate()
    stuck = [
        Exchange(**SUBMIT, headers={**OWN, "content-length": "20000000"}, chunks=[b"x"], complete=False, client=address)
        for address in (f"203.0.113.{n}" for n in range(12))
    ]
    tasks = await start(target, *stuck)
    loop = asyncio.get_running_loop()
    began = loop.time()

    answer = await upload(20_000_000).send_to(target)

    assert answer.status == 200
    assert loop.time() - began < 4
    assert [exchange.status for exchange in stuck if exchange.messages] == [408]
    await asyncio.gather(*tasks)  # the other bodies end because they are silent


async def test_time_in_which_the_service_is_busy_does_not_count_against_a_body():
    async def slow(scope, receive, send):
        async def receive_late():
            await asyncio.sleep(25)
            return await receive()

        await reading(scope, receive_late, send)

    headers = {**OWN, "content-length": "3000000"}
    assert await status(gate(slow), **SUBMIT, headers=headers, chunks=[bytes(1_000_000)] * 3) == 200


async def test_the_client_with_the_fewest_bodies_is_served_first():
    busy = Busy()
    target = gate(busy)
    tasks = await start(target, *uploads_of(9, 9))
    honest = upload(25_000_000)
    tasks += await start(target, honest)
    assert honest.reads == 0

    busy.release.set()
    await start(target)
    assert honest.reads == 1
    await asyncio.gather(*tasks)


async def test_one_client_gets_at_most_half_of_the_bytes():
    busy = Busy()
    target = gate(busy)
    tasks = await start(target, *uploads_of(13))
    assert busy.open == 6

    honest = upload(20_000_000)
    tasks += await start(target, honest)
    assert honest.reads == 1
    busy.release.set()
    await asyncio.gather(*tasks)
    assert not target._large._held


async def test_a_client_with_its_half_stops_no_slow_body_of_another_client():
    busy = Busy()
    stuck = Exchange(**SUBMIT, headers={**OWN, "content-length": "20000000"}, chunks=[b"x"], complete=False)

    async def app(scope, receive, send):
        await (reading if scope["client"][0] == CLIENT else busy)(scope, receive, send)

    tasks = await start(gate(app), stuck, *uploads_of(7))
    await asyncio.sleep(5)
    assert not stuck.messages
    busy.release.set()
    await asyncio.gather(*tasks)


async def test_a_client_that_leaves_while_it_waits_leaves_no_trace():
    busy = Busy()
    target = gate(busy)
    tasks = await start(target, *uploads_of(6, 6, 1))
    tasks[12].cancel()
    await asyncio.gather(tasks[12], return_exceptions=True)
    busy.release.set()
    await asyncio.gather(*tasks[:12])

    assert target._large._free == target._large._total
    assert not target._large._waiting


async def test_a_body_gives_its_bytes_back_when_the_answer_begins():
    released = asyncio.Event()

    async def app(_scope, receive, send):
        while (await receive())["more_body"]:
            pass
        await send({"type": "http.response.start", "status": 202, "headers": []})
        await released.wait()  # such as for the end of the job
        await send({"type": "http.response.body", "body": b""})

    target = gate(app)
    tasks = await start(target, *uploads_of(6, 6, 6))
    await asyncio.sleep(1)
    assert target._large._free == target._large._total
    released.set()
    await asyncio.gather(*tasks)
    assert target._large._free == target._large._total


async def test_a_body_that_still_arrives_keeps_its_bytes_when_the_answer_begins():
    released = asyncio.Event()

    async def app(_scope, receive, send):
        await receive()
        await send({"type": "http.response.start", "status": 422, "headers": []})
        await released.wait()
        await send({"type": "http.response.body", "body": b""})

    headers = {**OWN, "content-length": "20000000"}
    target = gate(app)
    (task,) = await start(target, Exchange(**SUBMIT, headers=headers, chunks=[bytes(10_000_000)] * 2))
    await asyncio.sleep(1)
    assert target._large._free == target._large._total - 2_000_000
    released.set()
    await task


# Refusals and Serve's own answers


def submission(size: int = 10, **request: object) -> dict:
    chunks = [bytes(size)]
    headers = {**OWN, "content-length": str(size), "content-type": "multipart/form-data"}
    return {"method": "POST", "path": "/api/jobs", "headers": headers, "chunks": chunks, **request}


async def test_the_submissions_of_a_client_with_many_refusals_have_to_wait():
    target = gate(answering(422, "application/problem+json"))
    loop = asyncio.get_running_loop()

    async def seconds(**request: object) -> float:
        began = loop.time()
        await status(target, **request)
        return loop.time() - began

    assert [await seconds(**submission()) for _ in range(21)] == [0] * 21
    assert await seconds(**submission()) == pytest.approx(0)  # its first turn
    waits = [await seconds(**submission()) for _ in range(5)]
    assert waits == sorted(waits)
    assert 0.1 < waits[0] < waits[-1]
    assert await seconds() == 0  # another request
    assert await seconds(**submission(), client="203.0.113.6") == 0
    codes = [await status(target, **submission()) for _ in range(5)]
    assert set(codes) == {422}
    together = await asyncio.gather(*(status(target, **submission()) for _ in range(30)))
    assert 429 in together
    await asyncio.sleep(200)
    assert await seconds(**submission()) == 0


async def test_a_large_refused_body_counts_more():
    async def refuse(scope, receive, send) -> None:
        while (await receive()).get("more_body"):
            pass
        await answering(422, "application/problem+json")(scope, receive, send)

    target = gate(refuse)
    began = asyncio.get_running_loop().time()
    for _ in range(3):
        assert await status(target, **submission(24_000_000)) == 422

    assert asyncio.get_running_loop().time() - began > 5


async def test_accepted_submissions_never_wait():
    target = gate(answering(202, "application/json"))
    began = asyncio.get_running_loop().time()
    for _ in range(100):
        assert await status(target, **submission()) == 202

    assert asyncio.get_running_loop().time() == began


async def test_the_memory_of_refusals_is_bounded():
    target = gate(answering(422, "application/problem+json"))
    for number in range(3000):
        await status(target, **submission(), client=f"10.0.{number // 250}.{number % 250}")

    assert len(target._refusals._clients) == 1000


def answering(code: int, media_type: str):
    async def app(_scope, _receive, send) -> None:
        headers = [[b"content-type", media_type.encode()]]
        await send({"type": "http.response.start", "status": code, "headers": headers})
        await send({"type": "http.response.body", "body": b"Request dropped due to backpressure"})

    return app


async def test_a_full_queue_of_serve_is_a_problem_with_retry_after():
    answer = await Exchange(headers=OWN).send_to(gate(answering(503, "text/plain; charset=utf-8")))

    assert (answer.status, answer.problem["code"]) == (503, "overloaded")
    assert answer.answer_headers["retry-after"] == "2"


@pytest.mark.parametrize(("code", "media_type"), [(503, "application/problem+json"), (404, "text/plain")])
async def test_every_other_answer_is_passed_on(code, media_type):
    answer = await Exchange(headers=OWN).send_to(gate(answering(code, media_type)))

    assert answer.messages[1]["body"] == b"Request dropped due to backpressure"


async def test_a_client_cannot_keep_a_request_alive_after_it_has_left():
    seen = []

    async def app(scope, receive, send) -> None:
        seen.extend(name for name, _ in scope["headers"])
        await reading(scope, receive, send)

    await status(gate(app), headers={**OWN, "X-Request-Disconnect-Disabled": "true"})

    assert seen == [b"host"]


async def test_a_websocket_is_refused():
    messages = []

    async def send(message: dict) -> None:
        messages.append(message)

    await gate()({"type": "websocket"}, None, send)

    assert messages == [{"type": "websocket.close", "code": 1008}]
