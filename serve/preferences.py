"""Reads the header `Prefer` (RFC 7240) of a request: how long the client wants to wait for the end of a job."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.request import parse_http_list

MAX_WAIT_S = 60

_MAX_DIGITS = 9


def wait_seconds(values: Iterable[str]) -> int | None:
    """Return the seconds of `wait=N` in the values of the header, at most `MAX_WAIT_S`, or None if there is none.

    If the preference occurs several times, the first one counts. The standard forbids an error for a preference that
    the service does not understand. So such a preference is ignored, and so is `wait` without a whole number.
    """
    for value in values:
        for preference in parse_http_list(value):
            name, _, text = preference.partition(";")[0].partition("=")
            if name.strip().lower() == "wait":
                return _seconds(text.strip().strip('"'))
    return None


def preference_applied(seconds: int) -> dict[str, str]:
    """Return the header that tells the client for how long the service waits."""
    return {"Preference-Applied": f"wait={seconds}"}


def _seconds(text: str) -> int | None:
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS):
        return None
    return min(int(text), MAX_WAIT_S)
