"""The function that Serve calls in its proxy, and the environment in which Serve calls it."""

from __future__ import annotations

import pytest
import uvicorn.config
from ray.serve._private.http_util import validate_http_proxy_callback_return
from ray.serve._private.utils import call_function_from_import_path

from pixtools.local import ray_head
from serve import proxy
from serve.gate import Gate
from serve.http_limits import LimitedProtocol, LimitedProtocolBehindHaproxy

NAME = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"


@pytest.fixture
def _restored(monkeypatch):
    monkeypatch.setitem(uvicorn.config.HTTP_PROTOCOLS, "auto", uvicorn.config.HTTP_PROTOCOLS["auto"])
    monkeypatch.setattr(LimitedProtocol, "clients", LimitedProtocol.clients)


@pytest.mark.usefixtures("_restored")
def test_serve_gets_the_gate_and_uvicorn_gets_the_limited_parser(monkeypatch):
    monkeypatch.setenv("PIXTOOLS_TRUSTED_PROXIES", "10.0.0.1")

    (middleware,) = validate_http_proxy_callback_return(call_function_from_import_path(ray_head.PROXY_CALLBACK))
    config = uvicorn.Config(lambda: None)
    config.load()

    assert isinstance(middleware.cls(lambda: None, *middleware.args, **middleware.kwargs), Gate)
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
