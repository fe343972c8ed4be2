"""Connections that reach only addresses that the policy allows.

A name is looked up once for each connection, and the address that is checked is the address that is used. So a name
that has another address a moment later (DNS rebinding) gains nothing.

The streams are written for asyncio. httpcore's own streams serve several event loops, which doubles the CPU time of a
request.
"""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from contextlib import suppress

import httpcore

from pixtools.errors import AddressBlocked, AnswerTooLarge, HostNotResolved, TlsFailed
from pixtools.outbound.addresses import AddressPolicy
from pixtools.outbound.resolver import Resolver

MAX_ANSWER_BYTES = 1 << 16
"""At most this many bytes of an answer are read, in all: interim answers (1xx), headers, and the body as it is sent."""

# A name may have thousands of addresses. Without a limit, a request would knock at thousands of doors.
_MAX_TRIES = 8
_TRY_TIMEOUT_S = 4.0  # of each address but the last one, which may use the rest of the time


class GuardedNetwork:
    """Connects by TCP to addresses that are not blocked."""

    def __init__(self, policy: AddressPolicy, resolve: Resolver) -> None:
        self._policy = policy
        self._resolve = resolve

    async def connect(self, host: str, port: int, tls: ssl.SSLContext | None) -> httpcore.AsyncNetworkStream:
        """Connect to the first address of `host` that answers. If any of its addresses is blocked, connect to none.

        With `tls`, the certificate must be valid for `host`.

        Raises HostNotResolved, AddressBlocked, TlsFailed, and OSError if no address answers.
        """
        *others, last = (await self._open_addresses(host, port))[:_MAX_TRIES]
        for address in others:
            with suppress(OSError):
                async with asyncio.timeout(_TRY_TIMEOUT_S):
                    return await _connected(address, host, port, tls)
        return await _connected(last, host, port, tls)

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


async def _connected(address: str, host: str, port: int, tls: ssl.SSLContext | None) -> httpcore.AsyncNetworkStream:
    try:
        return _BoundedStream(
            *await asyncio.open_connection(address, port, ssl=tls, server_hostname=host if tls else None)
        )
    except (ssl.SSLError, ConnectionResetError) as error:
        raise TlsFailed(f"no secure connection to {host}: {_tls_reason(error)}") from error


class _BoundedStream(httpcore.AsyncNetworkStream):
    """A connection that reads a limited number of bytes. It is used for one request.

    httpcore limits the headers of an answer to 160 kB, but not the number of interim answers before it.

    The caller limits the time of the whole request, so the timeouts of single calls are not used.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._left = MAX_ANSWER_BYTES

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109, ARG002 (as above)
        """Read some bytes. Raises OSError, and AnswerTooLarge."""
        if self._left == 0:
            raise AnswerTooLarge(f"the server sent {MAX_ANSWER_BYTES:,} bytes, and the answer did not end")
        data = await self._reader.read(min(max_bytes, self._left))
        if not data and self._left == MAX_ANSWER_BYTES:
            raise ConnectionResetError("closed without an answer")
        self._left -= len(data)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109, ARG002 (as above)
        """Send a part of the request. Raises OSError."""
        if self._writer.is_closing():  # uvloop would raise RuntimeError
            raise ConnectionResetError("closed before the request was sent")
        self._writer.write(buffer)
        await self._writer.drain()

    async def aclose(self) -> None:
        """Close the connection at once. A server that does not read cannot keep it open."""
        self._writer.transport.abort()


def _tls_reason(error: OSError) -> str:
    """Return why a handshake failed."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid ({error.verify_message})"
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.replace("_", " ").lower()
    return "the server closed the connection"
