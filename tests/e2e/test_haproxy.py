"""The service listens where it should, and HAProxy refuses hostile clients before they reach Python."""

from __future__ import annotations

import http.client
import json
import socket
import time
from contextlib import suppress

import httpx
import psutil
import pytest
from process_titles import title_of
from waits import wait_for

from pixtools.local.addresses import is_loopback

# For each Serve replica, Ray opens a port of gRPC on every interface (docs/running.md). Its token protects this port.
REPLICA = "ray::ServeReplica"


def listening(stack) -> list[tuple[str, psutil._common.addr]]:
    """Return the title of the process and the address of each socket on which the service listens."""
    found = []
    for process in stack.processes():
        with suppress(psutil.NoSuchProcess):  # the process has just ended
            found += [
                (title_of(process), connection.laddr._replace(ip=connection.laddr.ip.removeprefix("::ffff:")))
                for connection in process.net_connections("inet")
                if connection.status == psutil.CONN_LISTEN
            ]
    return found


def haproxies(stack) -> list[psutil.Process]:
    return [process for process in stack.processes() if "/haproxy -db" in title_of(process)]


def test_every_port_is_on_loopback(stack):
    # After the start, HAProxy loads its configuration once more. A new process then takes the place of the old one.
    found: list[tuple[str, psutil._common.addr]] = []

    def haproxy_listens() -> bool:
        found[:] = listening(stack)
        return any("/haproxy -db" in title for title, _ in found)

    wait_for(haproxy_listens, 30)
    outside = [(title, address) for title, address in found if not is_loopback(address.ip)]

    assert [title for title, _ in outside if not title.startswith(REPLICA)] == []
    assert len(outside) == len({title for title, _ in outside})  # one port of each replica
    assert {address.port for title, address in found if "/haproxy -db" in title} == {stack.port}
    assert {address.port for _, address in found}.isdisjoint({8404, 9101, 8500})


def test_the_files_of_haproxy_are_private_and_belong_to_this_service(stack):
    (process, *_) = haproxies(stack)
    command = process.cmdline()
    config = command[command.index("-f") + 1]

    assert stack.ray_folder.name in config
    folder = stack.ray_folder.with_name(f"{stack.ray_folder.name}-h")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert set(process.environ()) == {"PIXTOOLS_STARTED_BY"}


def test_headers_that_are_sent_slowly_end_the_connection(stack):
    with socket.create_connection(("127.0.0.1", stack.port), 30, ("127.0.5.1", 0)) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\nX: ")
        began = time.monotonic()
        slow.settimeout(0.5)
        while time.monotonic() - began < 30:
            try:
                slow.sendall(b"x")
                if slow.recv(1) == b"":
                    break
            except TimeoutError:
                continue
            except ConnectionError:
                break
        assert 8 < time.monotonic() - began < 20


@pytest.mark.parametrize(("size", "status"), [(30_000, 200), (40_000, 431), (100_000, 400)])
def test_large_headers_are_refused_with_a_problem(stack, size, status):
    answer = httpx.get(f"{stack.base_url}/api/livez", headers={"X": "x" * size})

    assert answer.status_code == status
    if status == 431:
        assert answer.json()["code"] == "headers_too_large"


@pytest.mark.parametrize("length", [26_000_000, 10**12], ids=["above the limit", "far above the limit"])
def test_a_body_above_the_limit_is_refused_with_a_problem(stack, length):
    head = f"POST /api/jobs HTTP/1.1\r\nHost: localhost:{stack.port}\r\nContent-Length: {length}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", stack.port), 30) as client:
        client.sendall(head.encode() + b"x" * 100_000)
        answer = http.client.HTTPResponse(client)
        answer.begin()
        problem = json.load(answer)

    assert answer.status == 413
    assert problem["code"] in ("upload_too_large", "body_too_large")


def test_haproxy_ends_with_the_actor_that_started_it(stack, api):
    """Otherwise the new HAProxy could not listen on the port."""
    old = set(haproxies(stack))
    (manager,) = [process for process in stack.processes() if title_of(process).startswith("ray::HAProxyManager")]
    manager.kill()
    wait_for(lambda: not old & set(haproxies(stack)), 10)
    wait_for(lambda: is_up(api), 120)


def is_up(api) -> bool:
    try:
        return api.http.get("/api/livez").is_success
    except httpx.TransportError:
        return False


def test_the_proxy_of_ray_can_be_chosen(new_stack):
    plain = new_stack(extra_env={"PIXTOOLS_PROXY": "ray"})
    plain.launch()
    plain.wait_until_ready()

    assert httpx.get(f"{plain.base_url}/api/livez").json() == {"live": True}
    assert haproxies(plain) == []
    assert plain.port in {address.port for title, address in listening(plain) if title.startswith("ray::ProxyActor")}
    assert plain.stop() == 0
