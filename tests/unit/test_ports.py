"""A free port is free, and no connection gets it before a server uses it."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from pixtools.local import ports
from pixtools.local.local_error import LocalError
from pixtools.local.local_settings import LocalSettings

LOCAL_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")


def test_no_connection_gets_a_free_port():
    first, last = map(int, LOCAL_PORTS.read_text().split())

    assert not [port for port in (ports.free_port() for _ in range(200)) if first <= port <= last]


def test_a_port_is_given_once_and_never_if_the_settings_name_it(monkeypatch):
    """Ray starts a server for nodes and a server for clients. Their ports must differ."""
    page, dashboard, s3, named, other = (ports.free_port() for _ in range(5))
    monkeypatch.setattr(ports, "_reserved", set())
    monkeypatch.setattr(ports, "_FREE", (named, other))

    ports.check(LocalSettings(port=page, dashboard_port=dashboard, s3_port=s3, ray_client_port=named))

    assert ports.free_port() == other
    with pytest.raises(LocalError, match="is free"):
        ports.free_port()


def test_a_port_that_is_taken_is_not_free(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        monkeypatch.setattr(ports, "_FREE", range(taken, taken + 1))

        with pytest.raises(LocalError, match=f"No port from {taken} to {taken} is free"):
            ports.free_port()
