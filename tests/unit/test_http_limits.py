"""A real uvicorn server with our limits: headers, trailers, silence, connections, and ordinary HTTP beside them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
import tracemalloc
from collections.abc import AsyncIterator
from ipaddress import ip_network

import pytest
import uvicorn

from pixtools.settings import HttpSettings
from serve import http_limits
from serve.clients import Clients
from serve.gate import Gate
from serve.http_limits import LimitedProtocol

pytestmark = pytest.mark.anyio

HEAD = b"POST /api/x HTTP/1.1\r\nHost: localhost\r\n"
GET = b"GET /api/x HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def echo(scope, receive, send) -> None:
    """Answer with the size of the body, the number of the headers, and whether a trailer became a header."""
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size += len(message["body"])
        more = message["more_body"]
    names = [name for name, _ in scope["headers"]]
    body = json.dumps({"size": size, "headers": len(names), "trailer": b"trailer" in names}).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Connection:
    """A client that sends bytes as they are."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        return int(head[0].split()[1]), headers, await self.reader.readexactly(int(headers.get("content-length", 0)))

    async def is_closed(self, within_s: float = 20) -> bool:
        try:
            return await asyncio.wait_for(self.reader.read(1), within_s) == b""
        except ConnectionResetError:
            return True
        except TimeoutError:
            return False


@pytest.fixture
async def connect() -> AsyncIterator:
    """A function that connects to the server from an address of this machine."""
    gate = Gate(echo, HttpSettings(max_client_requests=1000, body_timeout=1))
    config = uvicorn.Config(gate, http=LimitedProtocol, lifespan="off", log_config=None, access_log=False)
    server = uvicorn.Server(config)
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    task = asyncio.create_task(server.serve([listener]))
    made = []

    async def connect(source: str = "127.0.0.1") -> Connection:
        made.append(Connection(*await asyncio.open_connection(*address, local_addr=(source, 0))))
        return made[-1]

    yield connect
    for connection in made:
        connection.writer.transport.abort()
    server.should_exit = True
    await task
    assert not LimitedProtocol._open


async def send_too_much(connection: Connection, beginning: bytes) -> None:
    """Send 67 MB after `beginning`. Fails if the server accepts them, or spends more than a second of CPU time."""
    began = time.process_time()
    try:
        await connection.send(beginning)
        for _ in range(64):
            await connection.send(b"x" * (1 << 20))
    except ConnectionError:
        pass
    cost = time.process_time() - began

    assert await connection.is_closed()
    assert cost < 1, cost


async def test_headers_of_67_mb_are_refused_at_little_cost(connect):
    await send_too_much(await connect(), HEAD + b"X: ")

    assert (await ask(await connect(), GET))[0] == 200


async def ask(connection: Connection, request: bytes) -> tuple[int, dict[str, str], bytes]:
    await connection.send(request)
    return await connection.answer()


@pytest.mark.parametrize(
    "request_",
    [
        HEAD + b"X: " + b"x" * 33_000 + b"\r\n\r\n",
        HEAD + b"X: " + b"x" * 33_000,  # the server does not wait for the end
        b"GET /" + b"x" * 33_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        HEAD + b"X: x\r\n" * 200 + b"\r\n",
    ],
    ids=["one long header", "no end", "a long address", "many headers"],
)
async def test_headers_that_are_too_large_are_a_problem(connect, request_):
    connection = await connect()
    status, headers, body = await ask(connection, request_)

    assert (status, headers["content-type"], headers["connection"]) == (431, "application/problem+json", "close")
    assert json.loads(body)["code"] == "headers_too_large"
    assert "32,768 bytes" in json.loads(body)["detail"]
    assert await connection.is_closed()


async def test_headers_of_32_kb_in_many_pieces_are_accepted(connect):
    connection = await connect()
    await connection.send(HEAD)
    for number in range(30):
        await connection.send(b"X-%d: " % number + b"x" * 1000 + b"\r\n")
        await asyncio.sleep(0)
    status, _, body = await ask(connection, b"Content-Length: 3\r\n\r\nabc")

    assert (status, json.loads(body)) == (200, {"size": 3, "headers": 32, "trailer": False})


@pytest.mark.parametrize("pieces", [1, 7, 100_000])
async def test_requests_on_one_connection_are_answered_in_order(connect, pieces):
    """Some requests are pipelined, some bodies are chunked, and the pieces end anywhere."""
    chunked = HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"5\r\nabcde\r\n" * 3 + b"0\r\n\r\n"
    whole = HEAD + b"Content-Length: 50000\r\n\r\n" + b"x" * 50_000
    stream = GET + chunked + whole + GET + whole + chunked
    connection = await connect()
    reading = asyncio.ensure_future(read(connection, 6))
    step = len(stream) // pieces + 1
    for start in range(0, len(stream), step):
        await connection.send(stream[start : start + step])

    assert await asyncio.wait_for(reading, 60) == [0, 15, 50_000, 0, 50_000, 15]


async def read(connection: Connection, answers: int) -> list[int]:
    return [json.loads((await connection.answer())[2])["size"] for _ in range(answers)]


async def test_large_headers_behind_another_request_close_the_connection(connect):
    connection = await connect()
    await connection.send(GET + HEAD + b"X: " + b"x" * 100_000 + b"\r\nContent-Length: 3\r\n\r\nabc")

    everything = await asyncio.wait_for(read_all(connection), 20)
    assert everything.count(b"HTTP/1.1 200") <= 1
    assert b'"size": 3' not in everything


async def read_all(connection: Connection) -> bytes:
    parts = []
    try:
        while part := await connection.reader.read(1 << 16):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


async def test_headers_that_come_with_the_end_of_a_body_have_the_same_limits(connect, monkeypatch):
    kept, receive = [], LimitedProtocol.data_received

    def watched(self, data: bytes) -> None:
        receive(self, data)
        kept.append(len(self.headers))

    monkeypatch.setattr(LimitedProtocol, "data_received", watched)
    connection = await connect()
    await connection.send(HEAD + b"Content-Length: 1\r\n\r\n")
    await asyncio.sleep(0.2)
    await connection.send(b"x" + HEAD + b"a:b\r\n" * 40_000)

    await asyncio.wait_for(read_all(connection), 20)
    assert max(kept) <= 129


async def test_a_trailer_does_not_become_a_header(connect):
    body = b"3\r\nabc\r\n0\r\nTrailer: x\r\nHost: evil.example\r\n\r\n"
    connection = await connect()
    await connection.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    status, _, answer = await ask(connection, body)

    assert (status, json.loads(answer)) == (200, {"size": 3, "headers": 2, "trailer": False})
    assert (await ask(connection, GET))[0] == 200


async def test_trailers_count_as_headers(connect):
    await send_too_much(await connect(), HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: ")


async def test_a_client_that_expects_100_is_asked_for_its_body(connect):
    connection = await connect()
    await connection.send(HEAD + b"Content-Length: 3\r\nExpect: 100-continue\r\n\r\n")
    assert await connection.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert (await ask(connection, b"abc"))[0] == 200

    await connection.send(HEAD + b"Content-Length: 70000\r\nExpect: 100-continue\r\n\r\n")
    assert (await connection.answer())[0] == 413
    assert await connection.is_closed()


@pytest.fixture
def soon(monkeypatch):
    """Make the deadline of headers half a second."""
    monkeypatch.setattr(http_limits, "_TIMEOUT_S", 0.5)


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("earlier", [0, 1], ids=["first request", "second request"])
@pytest.mark.parametrize(
    ("beginning", "drip"),
    [(b"", b"\r\n"), (b"GET /", b"x"), (HEAD, b"X: x\r\n"), (b"GET /", b"")],
    ids=["empty lines", "a long address", "many headers", "nothing more"],
)
async def test_slow_headers_close_the_connection(connect, earlier, beginning, drip):
    connection = await connect()
    for _ in range(earlier):
        assert (await ask(connection, GET))[0] == 200
    await connection.send(beginning or drip)
    closing = asyncio.ensure_future(connection.is_closed())
    began = time.monotonic()
    while not closing.done() and time.monotonic() - began < 15:
        connection.writer.write(drip)
        await asyncio.sleep(0.1)

    assert await closing


@pytest.mark.usefixtures("soon")
async def test_a_connection_on_which_nothing_is_sent_is_closed(connect):
    assert await (await connect()).is_closed()


@pytest.mark.usefixtures("soon")
async def test_an_idle_connection_between_requests_stays_open(connect):
    connection = await connect()
    await ask(connection, GET)
    await asyncio.sleep(1)

    assert (await ask(connection, GET))[0] == 200


@pytest.mark.usefixtures("soon")
async def test_a_slow_application_does_not_close_the_connection(connect):
    connection = await connect()
    await connection.send(HEAD + b"Content-Length: 6\r\n\r\nabc")
    await asyncio.sleep(0.8)

    assert (await ask(connection, b"abc"))[0] == 200


async def test_a_slow_body_is_a_problem_and_closes_the_connection(connect):
    connection = await connect()
    await connection.send(HEAD + b"Content-Length: 6\r\n\r\nabc")
    status, headers, body = await connection.answer()

    assert (status, headers["connection"], json.loads(body)["code"]) == (408, "close", "body_timed_out")
    assert await connection.is_closed()


@pytest.mark.usefixtures("soon")
async def test_a_client_that_is_still_sending_gets_its_refusal(connect):
    connection = await connect()
    await connection.send(HEAD + b"Content-Length: 3000000\r\n\r\n")
    await connection.send(b"x" * 1_500_000)
    assert (await connection.answer())[0] == 413
    await connection.send(b"x" * 1_500_000)
    assert (await ask(connection, GET))[0] == 200

    await connection.send(HEAD + b"Content-Length: 3000000\r\n\r\nx")
    assert (await connection.answer())[0] == 413
    assert await connection.is_closed()  # because the rest does not come


async def test_a_client_has_a_bounded_number_of_connections(connect):
    own = [await connect("127.0.0.2") for _ in range(64)]
    for connection in own:
        assert (await ask(connection, GET))[0] == 200

    assert await (await connect("127.0.0.2")).is_closed()
    assert (await ask(await connect("127.0.0.3"), GET))[0] == 200
    own[0].writer.close()
    await own[0].writer.wait_closed()
    await asyncio.sleep(0.2)
    assert (await ask(await connect("127.0.0.2"), GET))[0] == 200


async def test_a_trusted_proxy_may_have_more_connections(connect, monkeypatch):
    monkeypatch.setattr(LimitedProtocol, "clients", Clients([ip_network("127.0.0.2/32")]))
    for connection in [await connect("127.0.0.2") for _ in range(70)]:
        assert (await ask(connection, GET))[0] == 200


async def test_all_clients_together_have_a_bounded_number_of_connections(connect, monkeypatch):
    monkeypatch.setattr(http_limits, "_MAX_CONNECTIONS", 3)
    for number in range(3):
        assert (await ask(await connect(f"127.0.0.{number + 2}"), GET))[0] == 200

    assert await (await connect("127.0.0.9")).is_closed()


async def test_a_request_that_is_not_http_is_a_problem(connect):
    connection = await connect()
    status, _, body = await ask(connection, b"HELLO\r\n\r\n")

    assert (status, json.loads(body)["code"]) == (400, "bad_request")
    assert await connection.is_closed()


async def test_a_websocket_does_not_get_another_parser(connect):
    upgrade = (
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==\r\n\r\n"
    )

    assert (await ask(await connect(), GET[:-2] + upgrade))[0] == 200


async def test_pipelined_requests_are_answered_up_to_a_limit(connect):
    connection = await connect()
    await connection.send(GET * 3)
    for _ in range(3):
        assert (await connection.answer())[0] == 200

    flooding = await connect()
    tracemalloc.start()
    with contextlib.suppress(ConnectionError):
        for _ in range(8):
            await flooding.send(GET * 5_000)
    assert await flooding.is_closed()
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()
    assert (await ask(await connect(), GET))[0] == 200
