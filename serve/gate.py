"""Checks every HTTP request before the application sees it.

Serve's proxy runs the gate (`serve/proxy.py`). If a cluster does not configure this, the ingress runs it. The gate is a
pure ASGI middleware, so it does not buffer streams.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pixtools.errors import BodyTimedOut, Overloaded, PixToolsError, TooManyRequests
from pixtools.settings import HttpSettings
from serve.bodies import Body, BodyBudget, body_too_large, files_too_large
from serve.clients import Clients
from serve.origins import Origins
from serve.problems import FRONT_HEADERS, respond
from serve.refusals import Refusals
from serve.request_head import RequestHead

_MAX_BODY_BYTES = 65_536  # of every request except the submission of a job
_SMALL_BYTES = 1_000_000
_SMALL_BUDGET, _LARGE_BUDGET = 8_000_000, 24_000_000

_KEY_IN_USE = 409  # an ordinary answer to a client that repeats a request


class Gate:
    """Wraps an application."""

    def __init__(self, app: ASGIApp, settings: HttpSettings) -> None:
        self._app = app
        self._settings = settings
        self._clients = Clients(settings.trusted_proxies, behind_haproxy=settings.behind_haproxy)
        self._origins = Origins(settings)
        self._refusals = Refusals(settings.max_client_refusals)
        self._requests: Counter[str] = Counter()
        self._streams: Counter[str] = Counter()
        self._timeout_s = settings.body_timeout.total_seconds()
        self._too_large = files_too_large(settings.max_upload_bytes)
        # A body of the largest size that is slower than this does not arrive in time.
        min_speed = settings.max_submission_bytes / self._timeout_s
        # Bodies of up to 1 MB have bytes of their own, so they never wait for large bodies.
        self._small = BodyBudget(_SMALL_BUDGET, min_speed)
        self._large = BodyBudget(_LARGE_BUDGET, min_speed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection, such as an HTTP request."""
        if scope["type"] == "websocket":  # the service has no websockets
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] != "http":
            await self._app(scope, receive, send)
        else:
            await self._handle(scope, receive, send)

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        head = RequestHead.of(scope)
        peer = scope.get("client")
        client = self._clients.client(peer[0] if peer else None, head.forwarded_for)
        answer = _Answer(send)
        try:
            self._origins.require_own_host(head)
            self._origins.require_own_origin(head)
            body = self._body(head, receive)
            with self._place(client, head, scope):
                if body is None:
                    await self._app(scope, receive, answer)
                else:
                    await self._handle_body(client, head, scope, body, answer)
            error = answer.replacement
        except PixToolsError as refusal:
            error = refusal
        if error is not None:
            await _refuse(error, head, scope, answer)

    async def _handle_body(self, client: str, head: RequestHead, scope: Scope, body: Body, answer: _Answer) -> None:
        """Run the application on a request with a body, when there is room for the body."""
        if head.is_submission:
            await self._refusals.wait_for_turn(client)
        budget = self._small if body.size <= _SMALL_BYTES else self._large
        async with budget.reserved(client, body) as give_back:
            try:
                await answer.of(self._app, scope, body, give_back)
            finally:
                if head.is_submission and answer.is_refusal:
                    self._refusals.record(client, body.received)

    def _body(self, head: RequestHead, receive: Receive) -> Body | None:
        """Return the body, or None if there is none. Raises BodyTooLarge and UploadTooLarge."""
        if not head.has_body:
            return None
        limit = self._settings.max_submission_bytes if head.is_submission else _MAX_BODY_BYTES
        too_large = self._too_large if head.is_submission else body_too_large(limit)
        if head.length is not None and head.length > limit:
            raise too_large
        return Body(receive, limit if head.length is None else head.length, too_large, self._timeout_s)

    @contextmanager
    def _place(self, client: str, head: RequestHead, scope: Scope) -> Iterator[None]:
        """Count a request while it is open. Raises TooManyRequests.

        A request that waits for the end of a job takes the place of an event stream. If no such place is free, the
        method removes the preference to wait from `scope`, so that the request is answered at once.
        """
        waits = head.waits and self._streams[client] < self._settings.max_client_streams
        if head.waits and not waits:
            scope["headers"] = [header for header in scope["headers"] if header[0] != b"prefer"]
        if head.is_stream or waits:
            places, limit, what = self._streams, self._settings.max_client_streams, "event streams"
        else:
            places, limit, what = self._requests, self._settings.max_client_requests, "requests"
        if places[client] >= limit:
            name = "PIXTOOLS_MAX_CLIENT_STREAMS" if head.is_stream else "PIXTOOLS_MAX_CLIENT_REQUESTS"
            raise TooManyRequests(f"A client may have {limit} open {what} ({name}). Wait until one of them has ended.")
        places[client] += 1
        try:
            yield
        finally:
            places[client] -= 1
            if not places[client]:
                del places[client]


class _Answer:
    """Sends the answer of the application. `replacement` is the error to send instead, or None."""

    def __init__(self, send: Send) -> None:
        self.replacement: PixToolsError | None = None
        self._send = send
        self._status: int | None = None  # None: no answer has begun
        self._body: Body | None = None
        self._give_back: Callable[[], None] = lambda: None

    @property
    def is_refusal(self) -> bool:
        """Whether the client got an error that it has caused, or left before the answer."""
        status = self.replacement.status if self.replacement else self._status
        return status is None or (400 <= status < 500 and status != _KEY_IN_USE)  # noqa: PLR2004

    async def of(self, app: ASGIApp, scope: Scope, body: Body, give_back: Callable[[], None]) -> None:
        """Run the application on a request with a body. Call `give_back` when nothing needs the body any more."""
        self._body, self._give_back = body, give_back
        try:
            await app(scope, body.receive, self)
        except Exception:
            if body.error is None:
                raise
        if self._status is None:
            self.replacement = self.replacement or body.error

    async def __call__(self, message: Message) -> None:
        """Send a message of the answer."""
        if message["type"] == "http.response.start":
            if self._body is not None and self._body.is_complete:
                self._give_back()
            if self._body is not None and self._body.error is not None:
                self.replacement = self._body.error
            elif _is_overload_of_serve(message):
                self.replacement = Overloaded("Too many requests wait for the service. Send the request again.")
            else:
                self._status = message["status"]
        if self.replacement is None or self._status is not None:
            await self._send(message)

    async def send_now(self, message: Message) -> None:
        """Send a message of the answer that replaces the answer of the application."""
        await self._send(message)


async def _refuse(error: PixToolsError, head: RequestHead, scope: Scope, answer: _Answer) -> None:
    response = respond(error)
    response.raw_headers += FRONT_HEADERS
    # The rest of the body may never arrive. A client that expects status 100 may send the next request instead.
    if isinstance(error, BodyTimedOut) or head.expects_continue:
        response.headers["Connection"] = "close"
    await response(scope, _nothing, answer.send_now)


async def _nothing() -> Message:
    return {"type": "http.disconnect"}


def _is_overload_of_serve(start: Message) -> bool:
    """Return whether an answer comes from Serve itself: its queue is full, or the ingress is not there.

    All answers of the application with this status are problems. Serve writes plain text.
    """
    return start["status"] == 503 and any(  # noqa: PLR2004
        name.lower() == b"content-type" and value.startswith(b"text/plain") for name, value in start["headers"]
    )
