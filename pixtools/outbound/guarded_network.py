"""Connections that reach only addresses that the policy allows.

httpcore calls `GuardedNetwork` for each connection. So the address that is checked is the address that is used: a name
that has another address a moment later (DNS rebinding) gains nothing.
"""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import anyio
import httpcore

from pixtools.errors import AddressBlocked, AnswerTooLarge, HostNotResolved, TlsFailed
from pixtools.outbound.addresses import AddressPolicy
from pixtools.outbound.resolver import Resolver

MAX_ANSWER_BYTES = 1 << 16
"""At most this many bytes of an answer are read, in all: interim answers (1xx), headers, and the body as it is sent."""

# A name may have thousands of addresses. Without a limit, a request would knock at thousands of doors.
_MAX_TRIES = 8
_TRY_TIMEOUT_S = 4.0  # of each address but the last one, which may use the rest of the time


class GuardedNetwork(httpcore.AsyncNetworkBackend):
    """Connects by TCP to addresses that are not blocked. The base class refuses Unix sockets (NotImplementedError)."""

    def __init__(self, policy: AddressPolicy, resolve: Resolver) -> None:
        self._policy = policy
        self._resolve = resolve
        self._tcp = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 (the base class has it)
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first address of `host` that answers. If any of its addresses is blocked, connect to none.

        Raises HostNotResolved, AddressBlocked and the errors of httpcore.
        """
        *others, last = (await self._open_addresses(host, port))[:_MAX_TRIES]
        for address in others:
            with suppress(httpcore.ConnectError, httpcore.ConnectTimeout):
                stream = await self._tcp.connect_tcp(address, port, _TRY_TIMEOUT_S, local_address, socket_options)
                return _BoundedStream(stream)
        return _BoundedStream(await self._tcp.connect_tcp(last, port, timeout, local_address, socket_options))

    async def _open_addresses(self, host: str, port: int) -> list[str]:
        addresses = await self._resolved(host, port)
        if any(self._policy.blocks(ipaddress.ip_address(address)) for address in addresses):
            # The text does not contain the address, because it would say what the internal network looks like.
            raise AddressBlocked(f"{host} has an address to which this service does not connect")
        return addresses

    async def _resolved(self, host: str, port: int) -> list[str]:
        try:
            addresses = list(await self._resolve(host, port))
        except (OSError, UnicodeError):
            addresses = []
        if not addresses:
            raise HostNotResolved(f"no address was found for {host}")
        return addresses


class _BoundedStream(httpcore.AsyncNetworkStream):
    """A connection that reads a limited number of bytes. It is used for one request.

    httpcore limits the headers of an answer to 160 kB, but not the number of interim answers before it.
    """

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream
        self._left = MAX_ANSWER_BYTES

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 (as above)
        """Read some bytes. Raises AnswerTooLarge, and httpcore.ReadError if the server sent nothing and closed."""
        if self._left == 0:
            raise AnswerTooLarge(f"the server sent {MAX_ANSWER_BYTES:,} bytes, and the answer did not end")
        data = await self._stream.read(min(max_bytes, self._left), timeout)
        if not data and self._left == MAX_ANSWER_BYTES:
            raise httpcore.ReadError("closed without an answer")
        self._left -= len(data)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 (as above)
        """Send a part of the request."""
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        """Close the connection, even if the caller is cancelled meanwhile."""
        with anyio.CancelScope(shield=True):
            await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 (as above)
    ) -> httpcore.AsyncNetworkStream:
        """Begin a TLS connection. Raises TlsFailed."""
        try:
            return _BoundedStream(await self._stream.start_tls(ssl_context, server_hostname, timeout))
        except httpcore.ConnectError as error:
            raise TlsFailed(f"no secure connection to {server_hostname}: {_tls_reason(error)}") from error
        except BaseException:
            # After a cancellation, httpcore leaves the connection open.
            await self.aclose()
            raise

    def get_extra_info(self, info: str) -> Any:
        """Return what httpcore asks about the connection, such as the protocol that TLS has chosen."""
        return self._stream.get_extra_info(info)


def _tls_reason(error: httpcore.ConnectError) -> str:
    """Return why a handshake failed. httpcore wraps the error of the TLS library."""
    cause = error.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not valid ({cause.verify_message})"
    if isinstance(cause, ssl.SSLError) and cause.reason:
        return cause.reason.replace("_", " ").lower()
    return "the server closed the connection"
