"""Parses a URL that a client gave.

URL parsers disagree about odd URLs, and an attacker can use the difference. So odd URLs are refused here, and a request
is made from the parsed parts. No other parser reads the URL again.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

import idna

from pixtools.outbound.addresses import AddressPolicy

MAX_URL_CHARS = 2_048
"""The largest length of a URL, before and after its host name is encoded."""

_MAX_HOST_CHARS = 253  # of DNS
_PORTS = {"http": 80, "https": 443}
_URL = re.compile(r"([a-z]+)://([^/?#]*)([^?#]*)(\?[^#]*)?(?:#.*)?", re.IGNORECASE)
_HOST_AND_PORT = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]+)(?::([^:]*))?")
_PORT = re.compile(r"[0-9]{1,5}")
_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


class BadTarget(ValueError):
    """The URL cannot be used. The text says why, and what to do."""


@dataclass(frozen=True)
class Target:
    """A checked URL: where to connect, and what to ask for."""

    scheme: str  # http or https
    host: str  # a name in lower case, or an IP address without brackets; ASCII
    port: int
    path: str  # with the query

    @property
    def authority(self) -> str:
        """The value of the header `Host`: the host, and the port if it is not the usual one."""
        host = _in_url(self.host)
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The URL in its usual spelling, without a fragment."""
        return f"{self.scheme}://{self.authority}{self.path}"

    @property
    def destination(self) -> str:
        """The server: all URLs of one server have the same destination."""
        return f"{self.scheme}://{_in_url(self.host)}:{self.port}"


def parse_target(url: str, policy: AddressPolicy | None = None) -> Target:
    """Parse a URL that a client gave.

    With a `policy`, the host is refused if it is a blocked address or `localhost`. This is only an early hint for the
    client: the client of this package checks every address again when it connects.

    Raises BadTarget.
    """
    _require_length(url)
    if any(char.isspace() or not char.isprintable() or char == "\\" for char in url):
        raise BadTarget("the URL has a space, a control character or a backslash: remove or percent-encode it")
    match = _URL.fullmatch(url)
    scheme = match and match[1].lower()
    if match is None or scheme not in _PORTS:
        raise BadTarget("the URL must begin with http:// or https://")
    path = f"{match[3] or '/'}{match[4] or ''}"
    if not path.isascii():
        raise BadTarget("the path or the query has a character that is not ASCII: percent-encode it")
    host, port = _host_and_port(match[2], _PORTS[scheme])
    if policy is not None:
        _require_open(host, policy)
    target = Target(scheme, host, port, path)
    _require_length(target.url)
    return target


def _require_length(url: str) -> None:
    if len(url) > MAX_URL_CHARS:
        raise BadTarget(f"the URL has {len(url):,} characters, but {MAX_URL_CHARS:,} are allowed: use a shorter one")


def _host_and_port(authority: str, usual_port: int) -> tuple[str, int]:
    if "@" in authority:
        raise BadTarget("the URL has a user name or a password: remove everything before the @")
    match = _HOST_AND_PORT.fullmatch(authority)
    if match is None:
        raise BadTarget("the URL has no valid host: write https://host/path, and an IPv6 address in brackets")
    port = usual_port if match[2] is None else int(match[2]) if _PORT.fullmatch(match[2]) else 0
    if not 1 <= port <= 65_535:  # noqa: PLR2004 (the largest port)
        raise BadTarget("the port of the URL must be a number from 1 to 65535")
    return _host(match[1]), port


def _host(text: str) -> str:
    if text.startswith("["):
        return _ipv6(text[1:-1])
    name = text.lower()
    if not name.isascii():
        try:
            name = idna.encode(name, strict=True).decode()
        except idna.IDNAError:
            raise BadTarget("the host is not a valid international name: write it in ASCII (xn--…)") from None
    if name.endswith("."):
        raise BadTarget("the host ends with a dot: remove the dot")
    if _NUMBER.fullmatch(name.rpartition(".")[2]):  # other programs read each of these names as an IPv4 address
        return _ipv4(name)
    if len(name) > _MAX_HOST_CHARS or not _NAME.fullmatch(name):
        raise BadTarget("the host is not a valid name: use letters, digits, hyphens and dots")
    return name


def _ipv4(text: str) -> str:
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        raise BadTarget(
            "the host looks like an IPv4 address in an unusual spelling: write four decimal numbers, such as 192.0.2.1"
        ) from None


def _ipv6(text: str) -> str:
    if "%" in text:
        raise BadTarget("the IPv6 address of the URL has a zone: remove the % and everything after it")
    try:
        return str(ipaddress.IPv6Address(text))
    except ValueError:
        raise BadTarget("the host in brackets is not an IPv6 address: correct it, or remove the brackets") from None


def _require_open(host: str, policy: AddressPolicy) -> None:
    try:
        blocked = policy.blocks(ipaddress.ip_address(host))
    except ValueError:  # a name; RFC 6761 says that these names always mean loopback
        blocked = not policy.allow_private and (host == "localhost" or host.endswith(".localhost"))
    if blocked:
        raise BadTarget(
            "this service does not connect to internal addresses: use a host that is on the internet, or set "
            "PIXTOOLS_ALLOW_PRIVATE_WEBHOOKS=1 where all users are trusted"
        )


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
