"""Helpers for the faults of a `steps` document."""

from __future__ import annotations

from collections.abc import Sequence

from pixtools.errors import Fault, InvalidPlan

_MAX_QUOTE = 80  # characters
_MAX_FAULTS = 100  # without this limit, one megabyte of invalid steps would get an answer of ten megabytes


def quote(value: object) -> str:
    """Format a client's value for a message. Put text in quotation marks, and cut the result to 80 characters."""
    text = repr(value)
    return text if len(text) <= _MAX_QUOTE else f"{text[:_MAX_QUOTE]}…"


def invalid_plan(faults: Sequence[Fault]) -> InvalidPlan:
    """Return an error that states the total number of faults and lists the first 100."""
    count = f"{len(faults)} mistake{'s' if len(faults) > 1 else ''} in the steps"
    more = f"; only the first {_MAX_FAULTS} are listed" if len(faults) > _MAX_FAULTS else ""
    return InvalidPlan(f"{count}{more}.", tuple(faults[:_MAX_FAULTS]))
