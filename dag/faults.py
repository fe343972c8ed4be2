"""Helpers for the faults of a `steps` document."""

from __future__ import annotations

from collections.abc import Sequence

from pixtools.errors import Fault, InvalidPlan

_MAX_QUOTE = 80  # characters
_MAX_FAULTS = 100  # a megabyte of invalid steps would otherwise get an answer of ten megabytes


def quote(value: object) -> str:
    """Return what a client wrote, in quotation marks if it is text, cut to a length that suits a message."""
    text = repr(value)
    return text if len(text) <= _MAX_QUOTE else f"{text[:_MAX_QUOTE]}…"


def invalid_plan(faults: Sequence[Fault]) -> InvalidPlan:
    """Return an error that counts all faults and carries the first 100."""
    count = f"{len(faults)} mistake{'s' if len(faults) > 1 else ''} in the steps"
    more = f", the first {_MAX_FAULTS} of them here" if len(faults) > _MAX_FAULTS else ""
    return InvalidPlan(f"{count}{more}.", tuple(faults[:_MAX_FAULTS]))
