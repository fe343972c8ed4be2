"""Finds the address of the client of a request. Limits per client count by this address."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address

_Network = IPv4Network | IPv6Network

_MAX_HOPS = 20  # entries of X-Forwarded-For that are read, from the right


class Clients:
    """Knows the trusted proxies. An X-Forwarded-For header from any other address is ignored.

    With `behind_haproxy`, the other end of each connection is our HAProxy. It has appended its own client to
    X-Forwarded-For.
    """

    def __init__(self, trusted_proxies: Sequence[_Network], *, behind_haproxy: bool = False) -> None:
        self._trusted_proxies = trusted_proxies
        self._behind_haproxy = behind_haproxy

    def is_trusted(self, address: str) -> bool:
        """Return whether an address belongs to a trusted proxy."""
        if not self._trusted_proxies:
            return False
        parsed = ip_address(address)
        return any(parsed in network for network in self._trusted_proxies)

    def client(self, peer: str | None, forwarded_for: Sequence[bytes]) -> str:
        """Return the client of a request, as `client_of` writes it.

        `peer` is the other end of the connection. `forwarded_for` contains the values of the X-Forwarded-For headers.
        The client is the right-most address that is not a trusted proxy, because only a trusted proxy has appended it.
        """
        if self._behind_haproxy and forwarded_for:
            earlier, _, last = b",".join(forwarded_for).rpartition(b",")
            peer, forwarded_for = last.decode("latin-1"), [earlier] if earlier else []
        address = _address(peer or "")
        if address is None:
            return "unknown"
        if self._trusted_proxies and forwarded_for:
            hops = b",".join(forwarded_for).decode("latin-1").rsplit(",", _MAX_HOPS)
            while self.is_trusted(address) and hops and (hop := _address(hops.pop())) is not None:
                address = hop
        return client_of(address)


@lru_cache(4096)
def client_of(address: str) -> str:
    """Return the name under which limits count an IP address.

    This is the address for IPv4, and the network of 64 bits for IPv6, because a client may choose the other 64 bits.
    """
    parsed = ip_address(address)
    if not isinstance(parsed, IPv6Address):
        return address
    return str(parsed.ipv4_mapped or IPv6Network((int(parsed) >> 64 << 64, 64)))


def _address(text: str) -> str | None:
    """Return the IP address in an entry of X-Forwarded-For. The entry may have a port. Return None if it is invalid."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return str(ip_address(text))
    except ValueError:
        return None
