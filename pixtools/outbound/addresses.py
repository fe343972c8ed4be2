"""Which IP addresses a request to a host that a client chose may reach.

The sources are the IANA IPv4 and IPv6 Special-Purpose Address Registries, the IANA registry of the IPv6 address space,
and the documentation of cloud providers, which names the addresses of their metadata servers. `ipaddress.is_global` is
not enough. It is true for 64:ff9b::7f00:1 (127.0.0.1 behind NAT64), fec0::1, 224.0.0.1 and 168.63.129.16.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Networks = tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]


def _networks(*texts: str) -> _Networks:
    return tuple(ipaddress.ip_network(text) for text in texts)


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")

# All other IPv6 addresses are blocked. So the addresses that contain an IPv4 address in an old or local way need no
# list: IPv4-compatible (::/96), IPv4-mapped (::ffff:0:0/96), and NAT64 with a local prefix (64:ff9b:1::/48).
_GLOBAL_IPV6 = (ipaddress.IPv6Network("2000::/3"), _NAT64)

_BLOCKED = _networks(
    "0.0.0.0/8",  # this host
    "10.0.0.0/8",  # private
    "100.64.0.0/10",  # shared between a provider and its customers; 100.100.100.200: metadata (Alibaba)
    "127.0.0.0/8",  # loopback
    "168.63.129.16/32",  # metadata (Azure)
    "169.254.0.0/16",  # link-local; 169.254.169.254 and others: metadata
    "172.16.0.0/12",  # private
    "192.0.0.0/24",  # protocol assignments; 192.0.0.192: metadata (Oracle)
    "192.0.2.0/24",  # documentation
    "192.88.99.0/24",  # relays to 6to4
    "192.168.0.0/16",  # private
    "198.18.0.0/15",  # benchmarks
    "198.51.100.0/24",  # documentation
    "203.0.113.0/24",  # documentation
    "224.0.0.0/4",  # multicast
    "240.0.0.0/4",  # class E and broadcast
    "2001::/23",  # protocol assignments: Teredo, benchmarks, ORCHID
    "2001:db8::/32",  # documentation
    "2002::/16",  # 6to4
    "3fff::/20",  # documentation
)

# With `allow_private`, these may be reached too.
_PRIVATE = _networks("10.0.0.0/8", "127.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "::1/128", "fc00::/7")

# The metadata servers inside _PRIVATE. A metadata server gives passwords of the machine to everyone who asks.
_PRIVATE_METADATA = _networks(
    "fd00:ec2::/32",  # AWS
    "fd20:ce::254/128",  # Google
    "fd00:c1::a9fe:a9fe/128",  # Oracle
    "fd00:42::42/128",  # Scaleway
)

_ISATAP = (0x0000_5EFE, 0x0200_5EFE)  # bits 64 to 95 of an address; the IPv4 address follows (RFC 5214)


@dataclass(frozen=True)
class AddressPolicy:
    """Decides which addresses are blocked.

    `allow_private` is for development on one machine: loopback, private and unique-local addresses may be reached.
    Link-local, shared and multicast addresses and metadata servers are blocked even then.
    """

    allow_private: bool = False

    def blocks(self, address: Address) -> bool:
        """Return whether no connection to `address` may be made. An IPv4 address inside an IPv6 address counts too."""
        return any(self._blocks(each) for each in (address, *_embedded(address)))

    def _blocks(self, address: Address) -> bool:
        if self.allow_private and _is_in(address, _PRIVATE):
            return _is_in(address, _PRIVATE_METADATA)
        if address.version == 6 and not _is_in(address, _GLOBAL_IPV6):  # noqa: PLR2004 (IPv6)
            return True
        return _is_in(address, _BLOCKED)


def _is_in(address: Address, networks: _Networks) -> bool:
    return any(address in network for network in networks)


def _embedded(address: Address) -> Iterator[ipaddress.IPv4Address]:
    """Yield the IPv4 address to which a gateway may send packets for an IPv6 address that is global."""
    bits = int(address)
    if address in _NAT64 or (address.version == 6 and bits >> 32 & 0xFFFF_FFFF in _ISATAP):  # noqa: PLR2004 (IPv6)
        yield ipaddress.IPv4Address(bits & 0xFFFF_FFFF)
