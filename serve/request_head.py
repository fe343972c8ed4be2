"""The facts about a request that the gate needs. They are collected in one pass over the headers."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass

from starlette.types import Scope

from serve.preferences import wait_seconds

_JOB = re.compile("/api/jobs/[^/]+")
_SUBMISSIONS = ("/api/jobs", "/api/process")
_EVENTS = re.compile("/api/jobs/[^/]+/events")

# With this header, Serve would continue a request after its client has left.
_DISCONNECT_DISABLED = b"x-request-disconnect-disabled"


@dataclass(frozen=True)
class RequestHead:
    """The method, the path and some headers of a request. A header that is sent twice has two values."""

    method: str
    path: str
    scheme: str
    hosts: list[bytes]
    origins: list[bytes]
    sites: list[bytes]
    forwarded_for: list[bytes]
    is_navigation: bool  # the user opens the address in a tab
    has_body: bool
    length: int | None  # of the body in bytes; None: there is no body, or its length is not known yet
    expects_continue: bool
    wait_s: int | None  # how long the client wants to wait for the end of a job; None: not at all

    @classmethod
    def of(cls, scope: Scope) -> RequestHead:
        """Read the head of a request, and remove a header from `scope` that a client may not send."""
        found: defaultdict[bytes, list[bytes]] = defaultdict(list)
        for name, value in scope["headers"]:
            found[name].append(value)
        if _DISCONNECT_DISABLED in found:
            scope["headers"] = [header for header in scope["headers"] if header[0] != _DISCONNECT_DISABLED]
        length = int(found[b"content-length"][0]) if b"content-length" in found else None
        return cls(
            method=scope["method"],
            path=scope["path"],
            scheme=scope["scheme"],
            hosts=found[b"host"],
            origins=found[b"origin"],
            sites=found[b"sec-fetch-site"],
            forwarded_for=found[b"x-forwarded-for"],
            is_navigation=found[b"sec-fetch-mode"] == [b"navigate"] and found[b"sec-fetch-dest"] == [b"document"],
            has_body=bool(length) or b"transfer-encoding" in found,
            length=length,
            expects_continue=b"expect" in found,
            wait_s=wait_seconds(value.decode("latin-1") for value in found[b"prefer"]),
        )

    @property
    def is_submission(self) -> bool:
        """Whether the request submits a job."""
        return self.method == "POST" and self.path in _SUBMISSIONS

    @property
    def waits(self) -> bool:
        """Whether the client wants the answer when a job has ended."""
        is_read = self.method == "GET" and _JOB.fullmatch(self.path) is not None
        return self.wait_s is not None and (self.is_submission or is_read)

    @property
    def is_stream(self) -> bool:
        """Whether the request opens an event stream."""
        return self.method == "GET" and _EVENTS.fullmatch(self.path) is not None
