"""Adds security headers and the rule for caches to every response.

This is a pure ASGI middleware, so it does not buffer streams.
"""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class SecurityHeaders:
    """Wraps an application. `images_from` is the beginning of the URLs of pictures that a page may load."""

    def __init__(self, app: ASGIApp, images_from: str) -> None:
        self._app = app
        self._policy = (
            "default-src 'self'; object-src 'none'; base-uri 'none'; frame-ancestors 'none'; form-action 'self'; "
            f"img-src 'self' blob: data: {images_from}"
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection, such as an HTTP request."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = self._policy
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "no-referrer"
                # A page of another origin can neither load an answer, for example as a script or a picture, nor reach
                # the window of the page.
                headers["Cross-Origin-Resource-Policy"] = "same-origin"
                headers["Cross-Origin-Opener-Policy"] = "same-origin"
                # Without no-cache, a browser may use old modules of the page with a new page. An ETag keeps the check
                # cheap.
                headers.setdefault("Cache-Control", "no-store" if _is_private(scope) else "no-cache")
            await send(message)

        await self._app(scope, receive, with_headers)


def _is_private(scope: Scope) -> bool:
    """Return whether the answer may contain download URLs, which work without credentials."""
    if scope["type"] != "http":
        return False
    return scope["method"] not in ("GET", "HEAD") or scope["path"].startswith("/api/jobs")
