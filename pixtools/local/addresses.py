"""Addresses of servers: which of them are on loopback, and how they are written in a URL."""

from __future__ import annotations

import ipaddress


def is_loopback(host: str) -> bool:
    """Return whether only programs on the same machine can reach a server that listens on `host`.

    The result is False for every name except `localhost`, because a name may stand for any address.
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def in_url(host: str) -> str:
    """Return `host` as it is written in a URL: an IPv6 address has brackets."""
    return f"[{host}]" if ":" in host else host
