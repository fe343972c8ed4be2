"""Measures every request that reaches the application. Ray exports the times to Prometheus.

This is a pure ASGI middleware, so it does not buffer streams.
"""

from __future__ import annotations

import time

from ray.util.metrics import Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pixtools import tracing

_SECONDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60]
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
_CANCELLED = 499  # no answer began, for example because the client was gone


class RequestMetrics:
    """Wraps an application, and names the span of each request. A time ends with the last byte of the answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._seconds = Histogram(
            "pixtools_http_request_seconds",
            "Time of HTTP requests, by route and status.",
            boundaries=_SECONDS,
            tag_keys=("route", "method", "status"),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection, such as an HTTP request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, began = _CANCELLED, time.perf_counter()

        async def with_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, with_status)
        finally:
            method = scope["method"] if scope["method"] in _METHODS else "other"
            tags = {"route": _route(scope), "method": method, "status": str(status)}
            # Only now is the route known.
            tracing.rename(f"{method} {tags['route']}")
            self._seconds.observe(time.perf_counter() - began, tags)


def _route(scope: Scope) -> str:
    """Return the path of the route with its parameters as names, so that there are few routes."""
    path = getattr(scope.get("route"), "path", None)
    return path if isinstance(path, str) else "other"
