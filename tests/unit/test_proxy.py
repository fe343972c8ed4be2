"""The function that Serve calls in its proxy, and the environment in which Serve calls it."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
import uvicorn.config
from ray.serve._private import http_util
from ray.serve._private.http_util import validate_http_proxy_callback_return
from ray.serve._private.utils import call_function_from_import_path

from pixtools.local import ray_head
from serve import proxy
from serve.clients import Clients
from serve.gate import Gate
from serve.http_limits import LimitedProtocol, LimitedProtocolBehindHaproxy
from serve.request_ids import RequestIds

NAME = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"


@pytest.fixture
def _restored(monkeypatch):
    monkeypatch.setitem(uvicorn.config.HTTP_PROTOCOLS, "auto", uvicorn.config.HTTP_PROTOCOLS["auto"])
    monkeypatch.setattr(LimitedProtocol, "clients", LimitedProtocol.clients)
    monkeypatch.setattr(http_util, "RequestIdMiddleware", http_util.RequestIdMiddleware)


@pytest.mark.usefixtures("_restored")
def test_serve_gets_the_gate_and_uvicorn_gets_the_limited_parser(monkeypatch):
    monkeypatch.setenv("PIXTOOLS_TRUSTED_PROXIES", "10.0.0.1")

    middleware, outside = validate_http_proxy_callback_return(call_function_from_import_path(ray_head.PROXY_CALLBACK))
    config = uvicorn.Config(lambda: None)
    config.load()

    assert isinstance(middleware.cls(lambda: None, *middleware.args, **middleware.kwargs), Gate)
    assert outside.cls is RequestIds
    assert config.http_protocol_class is LimitedProtocol
    assert LimitedProtocol.clients.is_trusted("10.0.0.1")


@pytest.mark.usefixtures("_restored")
def test_behind_haproxy_the_clients_are_not_counted_by_their_connections(monkeypatch):
    monkeypatch.setenv("PIXTOOLS_BEHIND_HAPROXY", "1")

    call_function_from_import_path(ray_head.PROXY_CALLBACK)
    config = uvicorn.Config(lambda: None)
    config.load()

    assert config.http_protocol_class is LimitedProtocolBehindHaproxy


def test_the_ingress_knows_whether_the_proxy_runs_the_gate(monkeypatch):
    monkeypatch.setenv(NAME, ray_head.PROXY_CALLBACK)
    assert proxy.is_installed()

    monkeypatch.delenv(NAME)
    assert not proxy.is_installed()


HAPROXY = "127.0.0.1"


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        ([b"203.0.113.5"], "203.0.113.5"),
        ([b"203.0.113.9", b"203.0.113.5"], "203.0.113.5"),  # the first address is a claim of the client
        ([b"203.0.113.9, 10.0.0.1"], "203.0.113.9"),  # a trusted proxy vouches for the first address
        ([b"198.51.100.1, 203.0.113.9", b"10.0.0.1"], "203.0.113.9"),
        ([b"203.0.113.9", b"127.0.0.1"], "127.0.0.1"),  # a client on this machine is no trusted proxy
        ([], HAPROXY),  # a program of this machine that goes around HAProxy
    ],
)
def test_behind_haproxy_the_last_address_is_that_of_the_client(forwarded, client):
    clients = Clients([ip_network("10.0.0.0/24")], behind_haproxy=True)

    assert clients.client(HAPROXY, forwarded) == client
