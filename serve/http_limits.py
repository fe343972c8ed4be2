"""Limits what a client may send before the application sees a request: headers, trailers, silence and connections.

Neither uvicorn nor its parser httptools has these limits. The time of httptools for one long header grows with the
square of its length.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from pixtools.errors import BadRequest, HeadersTooLarge, PixToolsError
from serve.clients import Clients, client_of
from serve.problems import FRONT_HEADERS, respond

_MAX_HEADER_BYTES = 32_768  # of the request line and the headers, and of the trailers of a body
_MAX_HEADERS = 128
_TIMEOUT_S = 10.0
_MAX_CONNECTIONS, _MAX_CLIENT_CONNECTIONS = 1000, 64
_MAX_PIPELINED = 8  # requests of a connection that wait for earlier answers; browsers send none

_TOO_LARGE = HeadersTooLarge(
    f"At most {_MAX_HEADERS} headers with {_MAX_HEADER_BYTES:,} bytes together are accepted. Send fewer headers."
)


class LimitedProtocol(HttpToolsProtocol):
    """One connection of uvicorn, with limits.

    - Request line and headers have at most 32 kB and 128 fields. Otherwise the answer is 431.
    - The headers of a request arrive within 10 s. The first request begins within 10 s. Otherwise the connection is
      closed.
    - If the application answers before the body has arrived, the rest has 10 s to arrive, and is thrown away. If the
      connection were closed at once, the client might lose the answer.
    - At most 8 requests of a connection wait for earlier answers. Otherwise the connection is closed.
    - A client has at most 64 connections, and all clients have at most 1,000. Other connections are closed at once.
      Trusted proxies may have more than 64 connections.
    """

    clients: ClassVar[Clients] = Clients(())  # the callback in `serve/proxy.py` sets this
    _counts_clients: ClassVar[bool] = True
    _open: ClassVar[Counter[str]] = Counter()  # connections of each client

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.ws_protocol_class = None  # the service has no websockets, and their parser has other limits
        self._peer: str | None = None  # the client in `_open`
        self._idle_bytes = 0  # received since the last headers were complete, or since the last byte of a body
        self._awaits_headers = True
        self._body_left = 0  # bytes of the body that have not arrived, if its length is known
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count the connection. Close it if there are too many."""
        super().connection_made(transport)
        address = self.client[0] if self.client else None
        if self._counts_clients and address is not None and not self.clients.is_trusted(address):
            self._peer = client_of(address)
            self._open[self._peer] += 1
        too_many = self._peer is not None and self._open[self._peer] > _MAX_CLIENT_CONNECTIONS
        if too_many or len(self.connections) > _MAX_CONNECTIONS:
            transport.abort()
        else:
            self._close_later()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stay_open()
        if self._peer is not None:
            self._open[self._peer] -= 1
            if not self._open[self._peer]:
                del self._open[self._peer]
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse data. Refuse the request if 32 kB neither complete its headers nor belong to its body."""
        while data and not self.transport.is_closing():
            allowed = max(self._body_left, _MAX_HEADER_BYTES + 1 - self._idle_bytes)
            piece, data = data[:allowed], data[allowed:]
            self._idle_bytes += len(piece)
            super().data_received(piece)
            if self._idle_bytes > _MAX_HEADER_BYTES:
                self._refuse(_TOO_LARGE)
        if self._deadline is None and self._awaits_headers and (self.cycle is None or self.cycle.response_complete):
            self._close_later()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header. Ignore a trailer: it would become a header that the gate has not checked."""
        if not self._awaits_headers or self.transport.is_closing():
            return
        super().on_header(name, value)
        if len(self.headers) > _MAX_HEADERS:
            self._refuse(_TOO_LARGE)

    def on_headers_complete(self) -> None:
        """Start the request, or refuse it if its headers are too large."""
        if self.transport.is_closing():
            return
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > _MAX_HEADER_BYTES:
            self._refuse(_TOO_LARGE)
            return
        if len(self.pipeline) >= _MAX_PIPELINED:
            self.transport.abort()
            return
        self._idle_bytes = 0
        self._body_left = int(dict(self.headers).get(b"content-length", 0))  # the parser has checked the number
        self._awaits_headers = False
        self._stay_open()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body. Ignore the body of a refused request: `cycle` is an earlier request or None."""
        self._idle_bytes = 0
        self._body_left = max(0, self._body_left - len(body))
        if not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Expect the headers of the next request."""
        self._idle_bytes = self._body_left = 0
        self._awaits_headers = True
        self._stay_open()
        if not self.transport.is_closing():
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Give the rest of a body little time."""
        super().on_response_complete()
        if not self._awaits_headers and self.cycle.response_complete:
            self._close_later()

    def _close_later(self) -> None:
        self._stay_open()
        self._deadline = self.loop.call_later(_TIMEOUT_S, self.transport.abort)

    def _stay_open(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def send_400_response(self, msg: str) -> None:
        """Answer a request that the parser cannot read."""
        self._refuse(BadRequest(msg))

    def _refuse(self, error: PixToolsError) -> None:
        """Answer with an error and close the connection. While an earlier answer is being sent, only close it."""
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            response = respond(error)
            headers = [*response.raw_headers, *FRONT_HEADERS, (b"connection", b"close")]
            head = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
            self.transport.write(STATUS_LINE[error.status] + head + b"\r\n" + bytes(response.body))
        self.transport.close()


class LimitedProtocolBehindHaproxy(LimitedProtocol):
    """One connection of our HAProxy to uvicorn.

    All connections come from HAProxy, and HAProxy limits the connections of each client. It also decides when an idle
    connection is closed. If uvicorn closed it, a request that HAProxy sends at the same moment would be lost.
    """

    _counts_clients: ClassVar[bool] = False

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.timeout_keep_alive = _IDLE_S


_IDLE_S = 3600  # HAProxy closes idle connections much earlier
