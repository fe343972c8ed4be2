"""Ports: which are free, and who wants those that are taken."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from pixtools.local.local_error import LocalError

if TYPE_CHECKING:
    from pixtools.local.local_settings import LocalSettings


def free_port() -> int:
    """Return a port that nobody listens on now; another process may still take it before we do."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def check(settings: LocalSettings) -> None:
    """Raise LocalError naming every port that we need and cannot have."""
    complaints = [
        f"  {host}:{port} for {use} ({why}): choose another with {variable}"
        for use, host, port, variable in _needed(settings)
        if (why := _obstacle(host, port))
    ]
    if complaints:
        raise LocalError("\n".join(["PixTools needs ports that it cannot have:", *complaints]))


def _needed(settings: LocalSettings) -> list[tuple[str, str, int, str]]:
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
        # Without it the closed connections of a service that has just stopped would count as a listener.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return (error.strerror or str(error)).lower()
    return None
