"""Ports: finds a free port, and checks before the start that the ports of the service are free."""

from __future__ import annotations

import secrets
import socket
from typing import TYPE_CHECKING

from pixtools.local.local_error import LocalError

if TYPE_CHECKING:
    from pixtools.local.local_settings import LocalSettings


# Systems give higher ports to connections (Linux: from 32768), so that such a port may be taken a moment later. The
# ingress replicas have the ports from 20000 to 31999: see haproxy.py.
_FREE = range(12_000, 20_000)

_reserved: set[int] = set()
"""Ports that this process has returned or checked. A server that has one of these ports may not have opened it yet."""


def free_port() -> int:
    """Return a loopback port that is free now. Another process may take this port before the caller uses it.

    A port is never returned twice. A port of the settings is never returned after `check` has seen the settings.

    Raises LocalError if 1,000 attempts find no free port.
    """
    for _ in range(1_000):
        port = secrets.choice(_FREE)
        if port in _reserved:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            _reserved.add(port)
            return port
    raise LocalError(f"No port from {_FREE[0]} to {_FREE[-1]} is free: end programs that hold these ports.")


def check(settings: LocalSettings) -> None:
    """Raise LocalError if a needed port cannot be used. The message lists every such port."""
    needed = _needed(settings)
    _reserved.update(port for _, _, port, _ in needed)
    complaints = [
        f"  {host}:{port} for {use} ({why}): choose another port with {variable}"
        for use, host, port, variable in needed
        if (why := _obstacle(host, port))
    ]
    if complaints:
        raise LocalError("\n".join(["PixTools needs ports that it cannot use:", *complaints]))


def _needed(settings: LocalSettings) -> list[tuple[str, str, int, str]]:
    """Return the use, the host, the port and the environment variable of each port that the service needs."""
    needed = []
    if settings.s3_endpoint_url is None:
        needed.append(("pictures (S3)", settings.host, settings.s3_port, "PIXTOOLS_S3_PORT"))
    if settings.ray_address is None:
        needed += [
            ("the page and the API", settings.host, settings.port, "PIXTOOLS_PORT"),
            ("Ray's dashboard", "127.0.0.1", settings.dashboard_port, "PIXTOOLS_DASHBOARD_PORT"),
            ("Ray's clients", "127.0.0.1", settings.ray_client_port, "PIXTOOLS_RAY_CLIENT_PORT"),
        ]
    return needed


def _obstacle(host: str, port: int) -> str | None:
    with socket.socket() as probe:
        # Without this option, closed connections of a service that has just stopped make the port look taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return (error.strerror or str(error)).lower()
    return None
