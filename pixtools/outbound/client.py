"""Sends requests to hosts that a client of the service chose.

The client uses httpcore without the layer of httpx above it. httpx would read the URL again, keep cookies, use the
proxies of the environment, and unpack bodies. This client must do none of that.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self

import httpcore
import httpx

from pixtools.errors import AnswerMalformed, AnswerTimedOut, ConnectionFailed, OutboundError
from pixtools.outbound.addresses import AddressPolicy
from pixtools.outbound.guarded_network import GuardedNetwork
from pixtools.outbound.resolver import Resolver, SystemResolver
from pixtools.outbound.targets import Target

TIMEOUT_S = 15.0
"""The longest time of a request, unless the caller chooses another."""

_BODY_TIMEOUT_S = 1.0
_MAX_HEADER_CHARS = 100  # of a header in `Answer`


@dataclass(frozen=True)
class Answer:
    """The answer of a server."""

    status: int
    retry_after: str | None  # the header, at most 100 characters, not checked
    body: bytes  # the first bytes as they were sent, for people to read
    ms: int  # from the lookup of the name to the end of the headers


class OutboundClient:
    """Sends HTTP/1.1 requests. It never connects to an address that the policy blocks, and follows no redirect.

    Each request has a connection of its own. The server may close a reused connection just when a request is sent, and
    bytes left over from one answer could be read as the next answer.
    """

    def __init__(
        self,
        policy: AddressPolicy,
        *,
        resolve: Resolver | None = None,
        tls: ssl.SSLContext | None = None,
        max_connections: int = 100,
    ) -> None:
        """`tls` must check certificates; the default trusts the usual authorities. `resolve` is for tests."""
        self._system_resolver = SystemResolver()
        self._network = GuardedNetwork(policy, resolve or self._system_resolver)
        self._tls = tls or httpx.create_ssl_context(trust_env=False)
        self._places = asyncio.Semaphore(max_connections)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._system_resolver.close()

    async def post(
        self,
        target: Target,
        headers: Mapping[str, str],
        body: bytes,
        *,
        total_timeout_s: float = TIMEOUT_S,
        max_answer_bytes: int = 2_048,
    ) -> Answer:
        """Send `body` and return the answer, whatever its status is.

        The timeout includes the lookup of the name, the connection, TLS, sending, and the headers of the answer. It
        does not include the wait for a place among `max_connections`, which is not the fault of the server.

        The status counts as soon as the headers are complete. After that, the body is read for one second at most, and
        not after the timeout. If it ends too late, is cut, or is longer than `max_answer_bytes`, the answer has the
        first bytes. Headers and body together are read up to 64 kB (65,536 bytes).

        Raises OutboundError.
        """
        request = _request(target, headers, body)
        tls = self._tls if target.scheme == "https" else None
        async with self._places, contextlib.AsyncExitStack() as closing:
            clock = asyncio.get_running_loop().time
            began = clock()
            deadline = began + total_timeout_s
            with _errors(target.host):
                async with asyncio.timeout_at(deadline):
                    stream = await self._network.connect(target.host, target.port, tls)
                    closing.push_async_callback(stream.aclose)
                    connection = httpcore.AsyncHTTP11Connection(request.url.origin, stream)
                    response = await connection.handle_async_request(request)
            ms = round((clock() - began) * 1_000)
            first_bytes = await _first_bytes(response, max_answer_bytes, min(deadline, clock() + _BODY_TIMEOUT_S))
        return Answer(response.status, _header(response, b"retry-after"), first_bytes, ms)


def _request(target: Target, headers: Mapping[str, str], body: bytes) -> httpcore.Request:
    own = {
        "host": target.authority,
        "connection": "close",
        "accept-encoding": "identity",  # a small body may unpack to gigabytes
        "content-length": str(len(body)),
    }
    url = httpcore.URL(scheme=target.scheme, host=target.host, port=target.port, target=target.path)
    given = [(name, value) for name, value in headers.items() if name.lower() not in own]
    return httpcore.Request("POST", url, headers=[*own.items(), *given], content=body)


@contextlib.contextmanager
def _errors(host: str) -> Iterator[None]:
    """Turn the errors of sockets and of httpcore, which say nothing about the host, into ours."""
    try:
        yield
    except TimeoutError as error:
        raise AnswerTimedOut(f"{host} did not answer in time") from error
    except (OSError, httpcore.NetworkError) as error:
        raise ConnectionFailed(f"{host} refused or cut the connection") from error
    except httpcore.RemoteProtocolError as error:
        raise AnswerMalformed(f"the answer of {host} is not valid HTTP, or it ended inside its headers") from error


async def _first_bytes(response: httpcore.Response, most: int, deadline: float) -> bytes:
    """Return the first bytes of a body. Errors are ignored: the status has decided already."""
    body = bytearray()
    with contextlib.suppress(OSError, OutboundError, httpcore.NetworkError, httpcore.RemoteProtocolError):
        async with asyncio.timeout_at(deadline):
            async for part in response.aiter_stream():
                body += part
                if len(body) >= most:
                    break
    return bytes(body[:most])


def _header(response: httpcore.Response, name: bytes) -> str | None:
    found = next((value for key, value in response.headers if key.lower() == name), None)
    return None if found is None else found.decode("latin-1")[:_MAX_HEADER_CHARS]
