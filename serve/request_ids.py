"""Gives each HTTP request an id, which the client may choose with the header `X-Request-ID`.

The answer has the id in the same header. Problems and log lines have it as `request_id`. Both classes are
pure ASGI middleware, so they do not buffer streams.
"""

from __future__ import annotations

import re
import uuid

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pixtools import logs, tracing

_HEADER = b"x-request-id"
_READS = ("GET", "HEAD", "OPTIONS")
_VALID = re.compile(rb"[\x21-\x7e]{1,128}")


class RequestIds:
    """Wraps the gate. Each request that it passes on has exactly one id.

    Serve has a middleware with the same purpose, but it accepts every text as an id, and does not see refusals.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection, such as an HTTP request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent = _ids(scope)
        current = sent[0] if len(sent) == 1 and _VALID.fullmatch(sent[0]) else str(uuid.uuid4()).encode()
        if sent != [current]:
            others = [header for header in scope["headers"] if header[0] != _HEADER]
            scope["headers"] = [*others, (_HEADER, current)]

        async def with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (_HEADER, current)]
            await send(message)

        await _within(current, self._app, scope, receive, with_id)


class RequestContext:
    """Wraps the application. Its log lines and problems get the id of the request, and OpenTelemetry gets a span."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection, such as an HTTP request."""
        sent = _ids(scope) if scope["type"] == "http" else []
        if len(sent) == 1 and _VALID.fullmatch(sent[0]):
            await _within(sent[0], self._traced, scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _traced(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Trace a request that may change something. Reads are too many."""
        if scope["method"] in _READS:
            await self._app(scope, receive, send)
            return
        parent = dict(scope["headers"]).get(b"traceparent", b"").decode("latin-1")
        with tracing.span(scope["method"], parent or None):
            await self._app(scope, receive, send)


def _ids(scope: Scope) -> list[bytes]:
    return [value for name, value in scope["headers"] if name == _HEADER]


async def _within(current: bytes, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    with logs.about(request_id=current.decode("ascii")):
        await app(scope, receive, send)
