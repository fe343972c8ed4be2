"""Outbound requests: no request reaches a blocked address, and no server can hold or harm the client."""

from __future__ import annotations

import asyncio
import gzip
import socket
import ssl
import time
from functools import partial
from ipaddress import ip_address

import psutil
import pytest
from outbound_servers import OK, Authority, Server, cut, hold, sending, serving

from pixtools.errors import (
    AddressBlocked,
    AnswerMalformed,
    AnswerTimedOut,
    AnswerTooLarge,
    ConnectionFailed,
    HostNotResolved,
    OutboundError,
    TlsFailed,
)
from pixtools.outbound.addresses import AddressPolicy
from pixtools.outbound.client import OutboundClient
from pixtools.outbound.guarded_network import MAX_ANSWER_BYTES
from pixtools.outbound.targets import Target, parse_target

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request):
    """Both event loops. Ray runs actors on uvloop."""
    return "asyncio", {"use_uvloop": request.param}


LOCAL = AddressPolicy(allow_private=True)
PUBLIC = "127.0.0.2"  # plays the part of a public address, because a test must not leave the machine


class PublicLoopback(AddressPolicy):
    """The usual policy, but 127.0.0.2 counts as a public address."""

    def blocks(self, address):
        return address != ip_address(PUBLIC) and super().blocks(address)


class Names:
    """A resolver that gives the answers of a list, one at each lookup. The last answer stays."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.lookups = []

    async def __call__(self, host, port):
        self.lookups.append((host, port))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def url(server: Server, host: str = "127.0.0.1", path: str = "/", scheme: str = "http") -> Target:
    return parse_target(f"{scheme}://{host}:{server.port}{path}")


async def post(server: Server, **options):
    """Send one request to a server on loopback, with a new client."""
    async with OutboundClient(LOCAL) as client:
        return await client.post(url(server), {}, b"{}", **options)


async def open_sockets(server: Server) -> int:
    """Return how many sockets of this process are connected to a server."""
    await asyncio.sleep(0.01)  # the event loop closes an aborted connection in its next turn
    mine = psutil.Process().net_connections("tcp")
    return sum(bool(each.raddr) and each.raddr.port == server.port and each.status == "ESTABLISHED" for each in mine)


# The guard


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "::ffff:127.0.0.1", "0.0.0.0", "::", "127.0.0.2"])
async def test_a_name_with_an_internal_address_gets_no_connection(address):
    async with serving(Server(), "127.0.0.1", "::1", "127.0.0.2") as server:
        async with OutboundClient(AddressPolicy(), resolve=Names([address])) as client:
            with pytest.raises(
                AddressBlocked, match=r"a\.example has an address to which this service does not connect"
            ):
                await client.post(url(server, "a.example"), {}, b"")
        assert server.connections == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::ffff:127.0.0.1", "localhost", "2130706433", "0x7f.1", "127.1"])
async def test_an_internal_host_gets_no_connection_however_it_is_written(host):
    async with serving(Server(), "127.0.0.1", "::1") as server:
        async with OutboundClient(AddressPolicy()) as client:  # with the resolver of the system
            with pytest.raises(AddressBlocked):
                await client.post(Target("http", host, server.port, "/"), {}, b"")
        assert server.connections == 0


@pytest.mark.parametrize("addresses", [[PUBLIC, "127.0.0.1"], ["::1", PUBLIC], [PUBLIC] * 20 + ["10.0.0.1"]])
async def test_a_name_with_one_internal_address_among_others_gets_no_connection(addresses):
    async with serving(Server(), "127.0.0.1", "::1", PUBLIC) as server:
        async with OutboundClient(PublicLoopback(), resolve=Names(addresses)) as client:
            with pytest.raises(AddressBlocked):
                await client.post(url(server, "a.example"), {}, b"")
        assert server.connections == 0


@pytest.mark.parametrize("internal", ["127.0.0.1", "::1"])
async def test_a_name_that_is_public_first_and_internal_later_reaches_only_the_public_server(internal):
    names = Names([PUBLIC], [internal])
    async with serving(Server(), PUBLIC) as public, serving(Server(), internal, port=public.port) as private:
        async with OutboundClient(PublicLoopback(), resolve=names) as client:
            assert (await client.post(url(public, "a.example"), {}, b"")).status == 200
            for _ in range(3):
                with pytest.raises(AddressBlocked):
                    await client.post(url(public, "a.example"), {}, b"")
        assert (public.connections, private.connections) == (1, 0)


async def test_a_name_is_looked_up_once_for_each_connection():
    names = Names([PUBLIC], ["127.0.0.1"])
    async with serving(Server(), PUBLIC) as public, serving(Server(), "127.0.0.1", port=public.port) as private:
        async with OutboundClient(PublicLoopback(), resolve=names) as client:
            assert (await client.post(url(public, "a.example"), {}, b"")).body == b"ok"
        assert names.lookups == [("a.example", public.port)]
        assert (public.connections, private.connections) == (1, 0)


async def test_each_request_has_a_connection_and_a_lookup_of_its_own():
    names = Names([PUBLIC])
    async with serving(Server(OK * 3), PUBLIC) as server, OutboundClient(PublicLoopback(), resolve=names) as client:
        for _ in range(3):
            assert (await client.post(url(server, "a.example"), {}, b"")).status == 200
        assert (server.connections, len(server.requests), len(names.lookups)) == (3, 3, 3)


async def test_all_blocked_addresses_have_the_same_message():
    messages = set()
    for addresses in (["127.0.0.1"], ["10.1.2.3"], ["169.254.169.254"], ["fd00::1"], ["8.8.8.8", "192.168.0.1"]):
        async with OutboundClient(AddressPolicy(), resolve=Names(addresses)) as client:
            with pytest.raises(AddressBlocked) as raised:
                await client.post(parse_target("http://a.example/"), {}, b"")
        messages.add(str(raised.value))
    assert len(messages) == 1


async def test_proxies_of_the_environment_are_ignored(monkeypatch):
    async with serving(Server()) as proxy, serving(Server()) as server:
        for variable in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(variable, f"http://127.0.0.1:{proxy.port}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        assert (await post(server)).status == 200
        assert (proxy.connections, server.connections) == (0, 1)


async def test_a_redirect_is_an_answer_and_is_not_followed():
    async with serving(Server()) as other:
        found = f"HTTP/1.1 307 x\r\nLocation: http://127.0.0.1:{other.port}/\r\nContent-Length: 0\r\n\r\n".encode()
        async with serving(Server(found)) as server:
            assert (await post(server)).status == 307
        assert other.connections == 0


# Names and connections


@pytest.mark.parametrize("answer", [socket.gaierror("no such name"), [], UnicodeError("label too long")])
async def test_a_name_without_an_address_is_an_error_of_its_own(answer):
    async with OutboundClient(AddressPolicy(), resolve=Names(answer)) as client:
        with pytest.raises(HostNotResolved, match=r"no address was found for a\.example"):
            await client.post(parse_target("http://a.example/"), {}, b"")


async def test_the_addresses_of_a_name_are_tried_in_turn():
    async with serving(Server(), "127.0.0.4") as server:
        names = Names(["127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5"])
        async with OutboundClient(LOCAL, resolve=names) as client:
            assert (await client.post(url(server, "a.example"), {}, b"")).status == 200
        assert server.connections == 1


async def test_at_most_eight_addresses_are_tried():
    async with serving(Server(), "127.0.0.10") as server:
        names = Names([f"127.0.0.{last}" for last in range(2, 11)])  # the ninth would answer
        async with OutboundClient(LOCAL, resolve=names) as client:
            with pytest.raises(ConnectionFailed, match=r"a\.example refused or cut the connection"):
                await client.post(url(server, "a.example"), {}, b"")


async def test_a_lookup_that_does_not_end_is_a_timeout():
    async def resolve(*_):
        await asyncio.sleep(60)

    async with OutboundClient(AddressPolicy(), resolve=resolve) as client:
        with pytest.raises(AnswerTimedOut, match=r"a\.example did not answer in time"):
            await client.post(parse_target("http://a.example/"), {}, b"", total_timeout_s=0.1)


# Requests


async def test_a_request_has_its_path_headers_and_body_and_keeps_the_host_name():
    async with serving(Server(), "::1") as server, OutboundClient(LOCAL, resolve=Names(["::1"])) as client:
        headers = {"Webhook-Id": "msg_1", "Host": "internal", "Content-Length": "9", "Accept-Encoding": "gzip"}
        await client.post(url(server, "hooks.example", "/a?b=%20c"), headers, b'{"x": 1}')
        assert server.requests[0].decode().split("\r\n") == [
            *("POST /a?b=%20c HTTP/1.1", f"host: hooks.example:{server.port}", "connection: close"),
            *("accept-encoding: identity", "content-length: 8", "Webhook-Id: msg_1", "", '{"x": 1}'),
        ]


async def test_an_ipv6_address_in_a_url_has_brackets_in_the_host_header():
    async with serving(Server(), "::1") as server, OutboundClient(LOCAL) as client:
        await client.post(url(server, "[::1]"), {}, b"")
        assert server.header("host") == f"[::1]:{server.port}".encode()


async def test_a_port_that_is_usual_is_not_in_the_host_header():
    assert parse_target("https://a.example:443/").authority == "a.example"
    assert parse_target("https://a.example:80/").authority == "a.example:80"


# TLS


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


async def test_the_certificate_and_the_server_name_are_those_of_the_host_name(authority):
    tls, asked = authority.server("hooks.example"), []
    tls.sni_callback = lambda _, name, __: asked.append(name)
    tls.set_alpn_protocols(["h2", "http/1.1"])  # an HTTP/2 connection would not be answered
    async with serving(Server(), PUBLIC, tls=tls) as server:
        async with OutboundClient(PublicLoopback(), resolve=Names([PUBLIC]), tls=authority.client()) as client:
            answer = await client.post(url(server, "hooks.example", scheme="https"), {}, b"")
        assert (answer.status, asked) == (200, ["hooks.example"])
        assert server.header("host") == f"hooks.example:{server.port}".encode()


async def test_a_certificate_of_an_ip_address_is_checked(authority):
    async with OutboundClient(LOCAL, tls=authority.client()) as client:
        async with serving(Server(), "::1", tls=authority.server("::1")) as server:
            assert (await client.post(url(server, "[::1]", scheme="https"), {}, b"")).status == 200
        async with serving(Server(), "::1", tls=authority.server("::2")) as server:
            with pytest.raises(TlsFailed, match="its certificate is not valid"):
                await client.post(url(server, "[::1]", scheme="https"), {}, b"")


@pytest.mark.parametrize(
    ("hosts", "days", "trusted", "reason"),
    [
        (["a.example"], 1, False, "unable to get local issuer certificate|self-signed"),
        (["b.example"], 1, True, "Hostname mismatch"),
        ([PUBLIC], 1, True, "Hostname mismatch"),
        (["a.example"], -1, True, "certificate has expired"),
    ],
)
async def test_a_bad_certificate_is_refused_before_anything_is_sent(authority, hosts, days, trusted, reason):
    client_tls = authority.client() if trusted else None
    async with serving(Server(), PUBLIC, tls=authority.server(*hosts, days=days)) as server:
        async with OutboundClient(PublicLoopback(), resolve=Names([PUBLIC]), tls=client_tls) as client:
            with pytest.raises(TlsFailed, match=f"^no secure connection to a.example: .*({reason})"):
                await client.post(url(server, "a.example", scheme="https"), {}, b"secret")
        assert server.requests == []


async def test_a_server_without_tls_is_an_error_of_tls():
    async def greet(_, writer):
        writer.write(b"220 mail.example ESMTP\r\n")
        writer.close()

    listener = await asyncio.start_server(greet, "127.0.0.1")
    async with listener, OutboundClient(LOCAL) as client:
        port = listener.sockets[0].getsockname()[1]
        with pytest.raises(TlsFailed, match=r"no secure connection to 127\.0\.0\.1: "):
            await client.post(Target("https", "127.0.0.1", port, "/"), {}, b"")


async def test_a_handshake_that_does_not_end_is_a_timeout_and_the_connection_is_closed():
    closed = asyncio.Event()

    async def wait(reader, writer):
        await reader.read()  # the hello of the client, and the end
        closed.set()
        writer.close()

    listener = await asyncio.start_server(wait, "127.0.0.1")
    async with listener, OutboundClient(LOCAL) as client:
        port = listener.sockets[0].getsockname()[1]
        with pytest.raises(AnswerTimedOut):
            await client.post(Target("https", "127.0.0.1", port, "/"), {}, b"", total_timeout_s=0.2)
        await asyncio.wait_for(closed.wait(), 5)


# Answers


async def test_an_answer_has_status_retry_after_body_and_duration():
    async def answer(writer):
        await asyncio.sleep(0.05)
        writer.write(b"HTTP/1.1 503 Busy\r\nRETRY-AFTER: 120\r\nX: y\r\nContent-Length: 4\r\n\r\nbusy")

    async with serving(Server(answer)) as server:
        found = await post(server)
    assert (found.status, found.retry_after, found.body) == (503, "120", b"busy")
    assert 50 <= found.ms < 5_000


async def test_interim_answers_are_skipped_and_a_long_header_is_cut():
    early = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * 3
    final = b"HTTP/1.1 429 x\r\nRetry-After: " + b"1" * 500 + b"\r\nContent-Length: 0\r\n\r\n"
    async with serving(Server(early + final)) as server:
        answer = await post(server)
    assert (answer.status, answer.retry_after) == (429, "1" * 100)


async def test_an_endless_body_is_cut_and_the_connection_is_closed():
    body = sending(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n", b"x" * 10_000)
    async with serving(Server(body)) as server, OutboundClient(LOCAL) as client:
        answer = await client.post(url(server), {}, b"", max_answer_bytes=100)
        assert (answer.status, answer.body) == (200, b"x" * 100)
        await asyncio.wait_for(server.closed.wait(), 5)


async def test_a_large_part_of_a_body_is_read_up_to_64_kb_with_the_headers():
    body = sending(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 10_000)
    async with serving(Server(body)) as server:
        answer = await post(server, max_answer_bytes=10_000_000)
    assert answer.body == b"x" * (MAX_ANSWER_BYTES - len(b"HTTP/1.1 200 OK\r\n\r\n"))


async def test_a_body_that_drips_is_read_for_a_second_and_the_status_counts():
    body = sending(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n", b"x", each_s=0.05)
    async with serving(Server(body)) as server, OutboundClient(LOCAL) as client:
        began = time.monotonic()
        answer = await client.post(url(server), {}, b"")
        assert 0.9 < time.monotonic() - began < 5
        assert (answer.status, set(answer.body)) == (200, set(b"x"))
        assert answer.ms < 900
        await asyncio.wait_for(server.closed.wait(), 5)


async def test_a_body_is_not_read_after_the_timeout():
    async def answer(writer):
        await asyncio.sleep(0.8)
        await sending(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n", b"x", each_s=0.05)(writer)

    async with serving(Server(answer)) as server:
        began = time.monotonic()
        assert (await post(server, total_timeout_s=1.4)).status == 200
        assert time.monotonic() - began < 1.75


async def test_a_body_that_is_cut_or_malformed_does_not_change_the_status():
    for body in (b"HTTP/1.1 201 OK\r\nContent-Length: 999\r\n\r\nabc", b"HTTP/1.0 201 OK\r\n\r\nabc"):
        async with serving(Server(partial(cut, after=body))) as server:
            answer = await post(server)
        assert (answer.status, answer.body) == (201, b"abc")
    async with serving(Server(b"HTTP/1.1 201 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n")) as server:
        answer = await post(server)
    assert (answer.status, answer.body) == (201, b"abc")


async def test_a_compressed_body_stays_compressed():
    bomb = gzip.compress(bytes(10_000_000))
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(bomb)}\r\n\r\n".encode()
    async with serving(Server(head + bomb)) as server:
        assert (await post(server)).body == bomb[:2_048]
        assert server.header("accept-encoding") == b"identity"


@pytest.mark.parametrize(
    ("first", "part"),
    [
        (b"HTTP/1.1 200 OK\r\n", b"X-A: " + b"a" * 1_000 + b"\r\n"),
        (b"HTTP/1.1 200 OK\r\nX-A: ", b"a" * 1_000),
        (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
        (b"", b"\r\n"),
    ],
    ids=["headers", "one header", "interim answers", "empty lines"],
)
async def test_headers_that_do_not_end_are_an_error_at_64_kb(first, part):
    sent = 0

    async def answer(writer):
        nonlocal sent
        writer.write(first)
        while True:
            writer.write(part)
            sent += len(part)
            await writer.drain()
            await asyncio.sleep(0)

    async with serving(Server(answer)) as server, OutboundClient(LOCAL) as client:
        with pytest.raises((AnswerTooLarge, AnswerMalformed)) as raised:
            await client.post(url(server), {}, b"", total_timeout_s=20)
        assert isinstance(raised.value, AnswerTooLarge) or part == b"\r\n"
        await asyncio.wait_for(server.closed.wait(), 5)


@pytest.mark.parametrize("length", [60_000, 70_000])
async def test_headers_may_have_up_to_64_kb(length):
    headers = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: " + b"a" * length + b"\r\n\r\n"
    async with serving(Server(headers)) as server:
        if length < MAX_ANSWER_BYTES:
            assert (await post(server)).status == 200
        else:
            with pytest.raises(AnswerTooLarge):
                await post(server)


@pytest.mark.parametrize("answer", [hold, sending(b"HTTP/1.1 200 OK\r\nX: ", b"x", each_s=0.02)], ids=["none", "drip"])
async def test_headers_that_come_too_slowly_are_a_timeout(answer):
    async with serving(Server(answer)) as server, OutboundClient(LOCAL) as client:
        with pytest.raises(AnswerTimedOut):
            await client.post(url(server), {}, b"", total_timeout_s=0.3)


async def test_a_server_that_does_not_read_is_a_timeout():
    async def wait(*_):
        await asyncio.sleep(60)

    with socket.create_server(("127.0.0.1", 0)) as listener:  # nobody accepts the connection
        async with OutboundClient(LOCAL) as client:
            target = Target("http", "127.0.0.1", listener.getsockname()[1], "/")
            with pytest.raises(AnswerTimedOut):
                await client.post(target, {}, bytes(20_000_000), total_timeout_s=0.3)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (cut, ConnectionFailed),
        (partial(cut, after=b"HTTP/1.1 200 OK\r\nX-A: b\r\n"), AnswerMalformed),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", AnswerMalformed),
        (b"HTTP/1.1 2000 OK\r\n\r\n", AnswerMalformed),
        (b"HTTP/1.1 000 OK\r\n\r\n", AnswerMalformed),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", AnswerMalformed),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", AnswerMalformed),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nab", AnswerMalformed),
        (b"HTTP/1.1 200 OK\r\n\0: x\r\n\r\n", AnswerMalformed),
        (bytes(range(256)), AnswerMalformed),
    ],
)
async def test_an_answer_that_is_cut_or_is_not_http_is_an_error(answer, kind):
    async with serving(Server(answer)) as server, OutboundClient(LOCAL) as client:
        with pytest.raises(OutboundError) as raised:
            await client.post(url(server), {}, b"", total_timeout_s=5)
        assert type(raised.value) is kind


async def test_bytes_after_an_answer_are_not_taken_for_the_answer_to_the_next_request():
    async with serving(Server(OK + OK.replace(b"200", b"500"))) as server, OutboundClient(LOCAL) as client:
        assert [(await client.post(url(server), {}, b"")).status for _ in range(3)] == [200] * 3


# Resources


async def test_a_cancellation_closes_the_connection():
    async with serving(Server(hold)) as server, OutboundClient(LOCAL) as client:
        task = asyncio.create_task(client.post(url(server), {}, b""))
        while not server.requests:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await open_sockets(server) == 0


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_cancellation_at_any_moment_closes_the_connection(authority, scheme):
    async def answer(writer):
        await asyncio.sleep(0.002)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
        await asyncio.sleep(0.002)
        if not writer.is_closing():  # uvloop does not write to a connection that the client has closed
            writer.write(b"ok")

    tls = authority.server("127.0.0.1") if scheme == "https" else None
    async with serving(Server(answer), tls=tls) as server, OutboundClient(LOCAL, tls=authority.client()) as client:
        for turn in range(120):  # first a turn of the event loop later each time, and then half a millisecond
            task = asyncio.create_task(client.post(url(server, scheme=scheme), {}, b""))
            for _ in range(min(turn, 60)):
                await asyncio.sleep(0)
            await asyncio.sleep(max(0, turn - 60) / 2_000)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert (await client.post(url(server, scheme=scheme), {}, b"")).body == b"ok"
        assert await open_sockets(server) == 0
        assert client._places._value == 100


async def test_the_wait_for_a_place_is_not_counted_as_slowness_of_the_server():
    async def slowly(writer):
        await asyncio.sleep(0.8)
        writer.write(OK)

    one = OutboundClient(LOCAL, max_connections=1)
    async with serving(Server(slowly)) as slow, serving(Server()) as fast, one as client:
        first = asyncio.create_task(client.post(url(slow), {}, b""))
        await asyncio.sleep(0.05)
        answer = await client.post(url(fast), {}, b"", total_timeout_s=0.5)
        assert (answer.status, (await first).status) == (200, 200)


async def test_no_more_than_max_connections_are_open():
    async with serving(Server(hold)) as server, OutboundClient(LOCAL, max_connections=3) as client:
        tasks = [asyncio.create_task(client.post(url(server), {}, b"")) for _ in range(8)]
        while server.connections < 3:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert server.connections == 3
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def test_the_default_tls_context_checks_certificates():
    context = OutboundClient(AddressPolicy())._tls
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
