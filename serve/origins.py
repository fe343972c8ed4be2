"""Refuses requests with a foreign host name, and requests that pages of other origins make a browser send."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import ip_address

from pixtools.errors import BadRequest, ForeignHost, ForeignOrigin
from pixtools.settings import HttpSettings
from serve.request_head import RequestHead

_HOST = re.compile(rb"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9.-]{1,253})(?::([0-9]{1,5}))?")
_ORIGIN = re.compile(rb"(https?)://(.+)")
_DEFAULT_PORTS = {b"http": b":80", b"https": b":443"}
_WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 (only compared)
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_OWN_SITES = (b"same-origin", b"none")  # `none`: the user typed the address, or opened a bookmark

# Load balancers and Serve's HAProxy send no Host header, and Prometheus sends the IP address of a node. The answers
# tell nothing about single jobs.
_FOR_EVERY_HOST = {"/-/healthz", "/metrics"}


class Origins:
    """The host names and origins of this service."""

    def __init__(self, settings: HttpSettings) -> None:
        own = [] if settings.host in (None, "", *_WILDCARDS) else [str(settings.host)]
        self._names = frozenset(_name(host) for host in [*own, *settings.public_hosts])
        self._public = frozenset(host.encode() for host in settings.public_hosts)
        self._is_own = lru_cache(256)(self._find_whether_own)

    def require_own_host(self, head: RequestHead) -> None:
        """Raise ForeignHost for another host name, and BadRequest if the Host header is missing, repeated or invalid.

        Without this check, the page of an attacker could give its own host name the address of this service. Then the
        browser would let this page read every answer (DNS rebinding).
        """
        if head.path in _FOR_EVERY_HOST:
            return
        if len(head.hosts) != 1 or not (parsed := _HOST.fullmatch(head.hosts[0])):
            raise BadRequest("Send exactly one Host header with a name or an address.")
        if not self._is_own(parsed[1]):
            raise ForeignHost(
                f"The service does not know the host {parsed[1].decode()[:80]!r}. If it is a name of this service, add "
                "it to PIXTOOLS_PUBLIC_HOSTS."
            )

    def require_own_origin(self, head: RequestHead) -> None:
        """Raise ForeignOrigin if the headers of a browser say that a page of another origin sent the request.

        A program that is not a browser sends neither of the headers, so it passes. A GET passes if the user follows a
        link from another page.
        """
        if head.method in _SAFE_METHODS:
            foreign = head.path.startswith("/api/") and _is_foreign(head.sites) and not head.is_navigation
        else:
            foreign = _is_foreign(head.sites) or not all(self._is_own_origin(origin, head) for origin in head.origins)
        if foreign:
            raise ForeignOrigin(
                "Open the page of this service and repeat the action there. If the page is on this service, add its "
                "host to PIXTOOLS_PUBLIC_HOSTS."
            )

    def _find_whether_own(self, host: bytes) -> bool:
        name = _name(host.decode())
        if name == "localhost" or name in self._names:
            return True
        try:
            return ip_address(name).is_loopback
        except ValueError:
            return False

    def _is_own_origin(self, origin: bytes, head: RequestHead) -> bool:
        parsed = _ORIGIN.fullmatch(origin.lower())
        if parsed is None:  # also the origin `null`, which sandboxed pages and files have
            return False
        scheme, host = parsed[1], parsed[2]
        if scheme == b"http" and head.scheme == "https":
            return False
        own = {name.lower().removesuffix(_DEFAULT_PORTS[scheme]) for name in (*head.hosts, *self._public)}
        return host.removesuffix(_DEFAULT_PORTS[scheme]) in own


def _is_foreign(sites: Sequence[bytes]) -> bool:
    return any(site not in _OWN_SITES for site in sites)


def _name(host: str) -> str:
    """Return a host without its port, and an IPv6 address without its brackets."""
    bracketed = host.startswith("[")
    name = host[1:].partition("]")[0] if bracketed else host if host.count(":") > 1 else host.partition(":")[0]
    return name.lower().removesuffix(".")
