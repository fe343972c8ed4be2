"""Installs the gate, the limits of the HTTP parser, the bounded queues and the request ids in the process that reads
HTTP requests.

Serve calls `middlewares` if the environment variable RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH is
`serve.proxy:middlewares`: in its own proxy, or, with HAProxy, in each ingress replica. With HAProxy, Serve's own proxy
takes requests only while no replica runs.
"""

from __future__ import annotations

import os

import uvicorn.config
from ray.serve._private import http_util
from starlette.middleware import Middleware
from starlette.types import ASGIApp

from pixtools import memory
from pixtools.settings import HttpSettings
from serve import back_pressure
from serve.clients import Clients
from serve.gate import Gate
from serve.http_limits import LimitedProtocol, LimitedProtocolBehindHaproxy
from serve.request_ids import RequestIds


def middlewares() -> list[Middleware]:
    """Install the bounded queues and the limited HTTP parser, and return the gate inside of the request ids.

    Raises ValidationError if a setting is wrong.
    """
    settings = HttpSettings()
    back_pressure.install()
    memory.return_freed_blocks()
    LimitedProtocol.clients = Clients(settings.trusted_proxies)
    # Serve does not pass a protocol to uvicorn, so uvicorn looks it up here. uvicorn accepts a class too.
    protocol = LimitedProtocolBehindHaproxy if settings.behind_haproxy else LimitedProtocol
    uvicorn.config.HTTP_PROTOCOLS["auto"] = protocol  # type: ignore[assignment]
    # Serve's own middleware for request ids would run inside of the gate, and would add a second header.
    http_util.RequestIdMiddleware = _unchanged
    return [Middleware(Gate, settings=settings), Middleware(RequestIds)]  # the last one is outside


def _unchanged(app: ASGIApp) -> ASGIApp:
    return app


def is_installed() -> bool:
    """Return whether Serve runs the gate in this cluster, according to the environment of this process."""
    return os.environ.get("RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH") == f"{__name__}:{middlewares.__name__}"
