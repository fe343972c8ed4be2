"""Reads the header `Prefer` (RFC 7240) of a request: how long the client wants to wait for the end of a job."""

from __future__ import annotations

import re

from starlette.datastructures import Headers

from pixtools.errors import BadRequest

MAX_WAIT_S = 60

_WAIT = re.compile(r"wait\s*(?:=\s*(.*?)\s*)?", re.IGNORECASE)
_SECONDS = re.compile(r"[0-9]{1,9}")


def wait_seconds(headers: Headers) -> int | None:
    """Return the seconds of `Prefer: wait=N`, at most `MAX_WAIT_S`, or None without this preference.

    If the preference occurs several times, the first one counts, as the standard says. All other preferences are
    ignored. Raises BadRequest if N is not a number of seconds.
    """
    for value in headers.getlist("prefer"):
        for preference in value.split(","):
            found = _WAIT.fullmatch(preference.split(";")[0].strip())
            if found is not None:
                return _seconds(found[1] or "")
    return None


def preference_applied(seconds: int) -> dict[str, str]:
    """Return the header that tells the client for how long the service waits."""
    return {"Preference-Applied": f"wait={seconds}"}


def _seconds(text: str) -> int:
    if not _SECONDS.fullmatch(text):
        raise BadRequest(f"Prefer: wait needs a whole number of seconds, such as wait={MAX_WAIT_S}.")
    return min(int(text), MAX_WAIT_S)
