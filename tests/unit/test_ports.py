"""A free port is free, and no connection gets it before a server uses it."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from pixtools.local import ports
from pixtools.local.local_error import LocalError

LOCAL_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")


def test_no_connection_gets_a_free_port():
    first, last = map(int, LOCAL_PORTS.read_text().split())

    assert not [port for port in (ports.free_port() for _ in range(200)) if first <= port <= last]


def test_a_port_that_is_taken_is_not_free(monkeypatch):
    with socket.create_server(("127.0.0.1", ports.free_port())) as server:
        taken = server.getsockname()[1]
        monkeypatch.setattr(ports, "_FREE", range(taken, taken + 1))

        with pytest.raises(LocalError, match=f"No port from {taken} to {taken} is free"):
            ports.free_port()
