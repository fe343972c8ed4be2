"""Installs the gate, the limits of the HTTP parser and the bounded queues in Serve's proxy.

Serve calls `middlewares` in its proxy if the environment variable RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH is
`serve.proxy:middlewares`. With HAProxy there is no such proxy. Then Serve calls `middlewares` in each ingress replica.
"""

from __future__ import annotations

import os

import uvicorn.config
from starlette.middleware import Middleware

from pixtools import memory
from pixtools.settings import HttpSettings
from serve import back_pressure
from serve.clients import Clients
from serve.gate import Gate
from serve.http_limits import LimitedProtocol


def middlewares() -> list[Middleware]:
    """Install the bounded queues and the limited HTTP parser, and return the gate.

    Raises ValidationError if a setting is wrong.
    """
    settings = HttpSettings()
    back_pressure.install()
    memory.return_freed_blocks()
    LimitedProtocol.clients = Clients(settings.trusted_proxies)
    # Serve does not pass a protocol to uvicorn, so uvicorn looks it up here. uvicorn accepts a class too.
    uvicorn.config.HTTP_PROTOCOLS["auto"] = LimitedProtocol  # type: ignore[assignment]
    return [Middleware(Gate, settings=settings)]


def is_installed() -> bool:
    """Return whether Serve runs the gate in this cluster, according to the environment of this process."""
    return os.environ.get("RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH") == f"{__name__}:{middlewares.__name__}"
