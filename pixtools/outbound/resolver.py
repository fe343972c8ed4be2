"""Resolves host names with the resolver of the system."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
"""Returns the IP addresses of a host, given the host and the port. An IP address is returned as it is.

It raises OSError or UnicodeError if there are none.
"""

# More than the deliveries that a courier sends at a time, because a lookup goes on after its delivery has failed. A
# lookup without a thread would wait, and its delivery would fail although its server is well.
_THREADS = 512


class SystemResolver:
    """Resolves names in threads of its own.

    A lookup cannot be stopped, and a dead DNS server holds its thread for many seconds. In the default threads of the
    event loop, a few such names would stop all other work of the process that needs these threads.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="resolver")

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """Return the addresses in the order in which they should be tried. Raises OSError and UnicodeError."""
        if _is_address(host):
            return [host]
        found = await asyncio.get_running_loop().run_in_executor(
            self._threads, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
        )
        return list(dict.fromkeys(str(address[0]) for *_, address in found))

    def close(self) -> None:
        """Give up the threads. Lookups that have not begun are cancelled."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _is_address(host: str) -> bool:
    """Return whether `host` is an IP address in its usual spelling. The system knows further ones, such as 127.1."""
    try:
        return str(ipaddress.ip_address(host)) == host
    except ValueError:
        return False
