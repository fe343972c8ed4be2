"""Turns the HAProxy configuration that Ray Serve generates into ours.

Ray's configuration opens ports on every interface, and has no limits for hostile clients. `ours` closes these ports,
sets the address of the page, and adds the limits. It knows every line that the pinned version of Ray may write. If it
finds another line, it raises an error, and HAProxy does not start: an unknown line might open a port.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

from pixtools.errors import BadRequest, BodyTooLarge, HeadersTooLarge, Overloaded, PixToolsError
from pixtools.local.local_error import LocalError

if TYPE_CHECKING:
    from collections.abc import Iterator

# The ingress has the same limits (serve/http_limits.py). It answers for headers between 128 and 160 fields. HAProxy
# itself answers if the headers have 160 fields or more, or do not fit into its buffer.
_MAX_HEADER_BYTES = 32_768  # of the request line and the headers
_HEADER_FIELDS, _BUFFER_BYTES = 160, 49_152
_MAX_CONNECTIONS, _MAX_CLIENT_CONNECTIONS = 1000, 64
_HEADER_TIMEOUT = "10s"
_CLIENT_TIMEOUT = "30s"  # of a client that neither sends nor takes what it has to; not while it waits for an answer
_SERVER_TIMEOUT = "1h"  # no request is silent for that long

_NAME = r"[A-Za-z0-9._-]+"
_CONDITION = rf"healthcheck(?: backend_{_NAME}_server_up)?"
_CHECK = r"check(?: observe layer4 error-limit \d+ on-error mark-down)?(?: backup)?"
_PATH = r"/[^\s\"'\\#]+"

_KEEP, _DROP = True, False
_LINES: dict[str, dict[str, bool]] = {
    "global": {
        r"log \S+ local0 info": _DROP,
        rf"stats socket {_PATH} mode 666 level admin expose-fd listeners": _DROP,
        r"stats timeout 30s": _KEEP,
        r"maxconn \d+": _DROP,
        r"nbthread \d+": _KEEP,
        r"tune\.bufsize \d+": _DROP,
        rf"server-state-base {_PATH}": _KEEP,
        rf"server-state-file {_PATH}": _KEEP,
        r"hard-stop-after \d+s": _KEEP,
        r"close-spread-time \d+s": _KEEP,
    },
    "defaults": {
        r"mode http": _KEEP,
        r"option log-health-checks": _KEEP,
        r"timeout connect \d+s": _KEEP,
        r"timeout client \d+s": _DROP,
        r"timeout server \d+s": _DROP,
        r"timeout http-keep-alive \d+s": _KEEP,
        r"log global": _KEEP,
        r"option httplog": _DROP,
        r"option (abortonclose|splice-request|splice-response|redispatch 1)": _KEEP,
        r"option (http-no-delay|idle-close-on-response)": _KEEP,
        r"retry-on conn-failure": _KEEP,
        rf"errorfile 50[234] {_PATH}": _DROP,
        r"load-server-state-from-file global": _KEEP,
        r"balance [a-z-]+": _KEEP,
    },
    "frontend prometheus": {
        r"bind :\d+": _DROP,
        r"mode http": _DROP,
        r"http-request use-service prometheus-exporter if \{ path /metrics \}": _DROP,
        r"no log": _DROP,
    },
    "frontend http_frontend": {
        r"bind 127\.0\.0\.1:\d+": _DROP,
        r"acl healthcheck path -i /-/healthz": _KEEP,
        r"http-request set-log-level debug if (healthcheck|routes)": _DROP,
        rf"acl backend_{_NAME}_server_up nbsrv\({_NAME}\) ge 1": _KEEP,
        rf'http-request return status (200|503) content-type text/plain string "[^"\\]*" if {_CONDITION}': _KEEP,
        # The gate of the ingress checks the host before it answers this path.
        r"acl routes path -i /-/routes": _DROP,
        r"http-request return status (200|503) content-type \S+ string \".*\" if routes": _DROP,
        rf"acl is_{_NAME} path(_beg)? /[A-Za-z0-9._/-]*": _KEEP,
        rf"use_backend {_NAME} if is_{_NAME}": _KEEP,
        r"default_backend default_backend": _KEEP,
    },
    "backend default_backend": {
        r"http-request return status 404 content-type text/plain lf-string .*": _DROP,
    },
    "backend": {
        r"log global": _KEEP,
        r"http-reuse always": _KEEP,
        r"option httpchk GET /-/healthz": _KEEP,
        r"http-check expect status 200": _KEEP,
        r"default-server( (fastinter|downinter|fall|rise|inter) \w+)* check": _KEEP,
        rf"server {_NAME} 127\.0\.0\.1:\d+ {_CHECK}": _KEEP,
    },
    "listen stats": {
        r"bind \*:\d+": _DROP,
        r"stats (enable|uri /stats|refresh 1s)": _DROP,
    },
}
_CLOSED = ("frontend prometheus", "listen stats")  # sections that only open a port
_REQUIRED = ("global", "defaults", "frontend http_frontend", "backend default_backend")


@dataclass(frozen=True)
class Front:
    """What HAProxy needs to know about the service."""

    host: str  # of the page: an IPv4 address or a name
    port: int
    trusted_proxies: tuple[str, ...]  # addresses and networks; they may have any number of connections
    max_body_bytes: int  # HAProxy refuses a larger body, and closes the connection
    answers: str  # the folder that contains the files of `answers`


def ours(generated: str, front: Front) -> str:
    """Return our configuration. Raises LocalError if Ray has generated anything that this module does not know."""
    sections = list(_sections(generated))
    names = [name for name, _ in sections]
    for name in _REQUIRED:
        if names.count(name) != 1:
            raise _unknown(f"the section {name!r} occurs {names.count(name)} times")
    lines = []
    for name, found in sections:
        kept = _kept(name, found)
        if name not in _CLOSED:
            lines += [name, *(f"    {line}" for line in (*_added(name, found, front), *kept))]
    return "\n".join([*lines, ""])


def answers() -> dict[str, str]:
    """Return the files with the answers of HAProxy itself, by name. Each answer is a problem, as the API documents it.

    A file that ends in `.http` is a whole answer. A file that ends in `.json` is its body.
    """
    down = Overloaded("The service does not answer at present. Send the request again.")
    too_large = HeadersTooLarge(f"At most {_MAX_HEADER_BYTES:,} bytes are accepted. Send fewer headers.")
    return {
        "400.http": _whole(BadRequest("This is no request of HTTP/1.1, or its headers are much too large.")),
        "503.http": _whole(down),
        "503.json": _body(down),
        "413.json": _body(BodyTooLarge("The body is much larger than the service accepts. Send smaller files.")),
        "431.json": _body(too_large),
    }


def _sections(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the name and the lines of each section, without comments and empty lines."""
    name: str | None = None
    lines: list[str] = []
    for line in text.splitlines():
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        if line[0].isspace():
            if name is None:
                raise _unknown(f"a line before the first section: {stripped!r}")
            lines.append(stripped)
            continue
        if name is not None:
            yield name, lines
        name, lines = stripped, []
    if name is not None:
        yield name, lines


def _kept(name: str, lines: list[str]) -> list[str]:
    """Return the lines of a section that stay. Raises LocalError for a line that this module does not know."""
    known = _LINES.get(name)
    if known is None and re.fullmatch(f"backend {_NAME}", name):
        known = _LINES["backend"]
    if known is None:
        raise _unknown(f"the section {name!r}")
    kept = []
    for line in lines:
        actions = [action for pattern, action in known.items() if re.fullmatch(pattern, line)]
        if not actions:
            raise _unknown(f"the line {line!r} in the section {name!r}")
        if actions[0]:
            kept.append(line)
    return kept


def _added(name: str, found: list[str], front: Front) -> list[str]:
    """Return our own lines of a section."""
    if name == "global":
        return _global(found)
    if name == "defaults":
        return _defaults(front)
    if name == "frontend http_frontend":
        return _frontend(front)
    if name == "backend default_backend":
        # A new HAProxy learns of the ingress after about a second. With 404, clients would believe that jobs are gone.
        return [f"{_refusal(503, front)} hdr retry-after {Overloaded.retry_after_s}"]
    return []


def _global(found: list[str]) -> list[str]:
    sockets = [line.split()[2] for line in found if line.startswith("stats socket ")]
    if len(sockets) != 1:
        raise _unknown(f"{len(sockets)} administration sockets")
    return [
        "log stderr format raw local0 notice",  # servers that come and go, but no requests
        f"stats socket {sockets[0]} mode 600 level admin expose-fd listeners",
        f"maxconn {2 * _MAX_CONNECTIONS}",
        f"tune.bufsize {_BUFFER_BYTES}",
        f"tune.http.maxhdr {_HEADER_FIELDS}",
    ]


def _defaults(front: Front) -> list[str]:
    return [
        f"timeout client {_CLIENT_TIMEOUT}",
        f"timeout server {_SERVER_TIMEOUT}",
        f"timeout http-request {_HEADER_TIMEOUT}",
        # No answer: a browser opens connections in advance, and would take 408 for the answer to its next request.
        "errorfile 408 /dev/null",
        f"errorfile 400 {_quoted(front, '400.http')}",
        *(f"errorfile {status} {_quoted(front, '503.http')}" for status in (500, 502, 503, 504)),
    ]


def _frontend(front: Front) -> list[str]:
    host = "127.0.0.1" if front.host == "localhost" else front.host
    proxies = " ".join(("127.0.0.1", *front.trusted_proxies))
    of_strangers = f" !{{ src {' '.join(front.trusted_proxies)} }}" if front.trusted_proxies else ""
    return [
        f"bind ipv4@{host}:{front.port}",
        "no log",
        "option disable-h2-upgrade",
        "stick-table type ip size 100k expire 1m store conn_cur",
        f"tcp-request connection reject if {{ fe_conn gt {_MAX_CONNECTIONS} }}",
        "tcp-request connection track-sc0 src",
        f"tcp-request connection reject if {{ sc0_conn_cur gt {_MAX_CLIENT_CONNECTIONS} }}{of_strangers}",
        _refusal(431, front, f"{{ req.hdrs,length gt {_MAX_HEADER_BYTES} }}"),
        _refusal(413, front, f"{{ req.body_size gt {front.max_body_bytes} }}"),
        # The ingress takes the last address as that of the client, and believes the others only from trusted proxies.
        "option forwardfor",
        # uvicorn believes this header, because every request comes from HAProxy. Other clients may not set it.
        f"http-request del-header x-forwarded-proto if !{{ src {proxies} }}",
    ]


def _refusal(status: int, front: Front, condition: str | None = None) -> str:
    return (
        f"http-request return status {status} content-type application/problem+json "
        f"file {_quoted(front, f'{status}.json')} "
        f"hdr cache-control no-store hdr x-content-type-options nosniff{f' if {condition}' if condition else ''}"
    )


def _quoted(front: Front, name: str) -> str:
    """Return the path of an answer as HAProxy reads it. The rules of its quotes are those of a shell."""
    return shlex.quote(f"{front.answers}/{name}")


def _body(error: PixToolsError) -> str:
    return json.dumps(error.problem())


def _whole(error: PixToolsError) -> str:
    body = _body(error)
    retry = [f"retry-after: {error.retry_after_s}"] if error.retry_after_s else []
    head = [
        f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}",
        "content-type: application/problem+json",
        f"content-length: {len(body.encode())}",
        "cache-control: no-store",
        "x-content-type-options: nosniff",
        *retry,
        "connection: close",
    ]
    return "\r\n".join([*head, "", body])


def _unknown(what: str) -> LocalError:
    return LocalError(
        f"Ray Serve has written an unexpected configuration of HAProxy: {what}. This version of PixTools does not know "
        "whether it is safe, so HAProxy does not start. Set PIXTOOLS_PROXY=ray to use the proxy of Ray instead"
    )
