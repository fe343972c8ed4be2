"""Reads the form fields that hold JSON. The cost is linear in the size of a field, and the size is limited."""

from __future__ import annotations

import json
from typing import Any

from dag.faults import invalid_plan, quote
from pixtools.errors import BadRequest, Fault, InvalidRequest, pointer

MAX_FIELD_BYTES = 65_536
"""The largest size of a form field that holds JSON, in bytes of UTF-8. A plan of 50 ordinary steps has about 5 kB."""

_MAX_DEPTH = 16  # levels of objects and lists; a `steps` document has at most four
_EXAMPLES = {
    "steps": 'write for instance {"web": {"op": "webp", "input": "source"}}',
    "operations": 'write for instance ["webp", "avif"]',
    "operation_params": 'write for instance {"webp": {"quality": 80}}',
}


def load(field: str, text: str) -> object:
    """Return the JSON value of a form field.

    Raises InvalidRequest if the text is too large, and BadRequest if it is not JSON or is nested too deeply. Raises
    InvalidPlan if two members of an object have the same name, because the second member would replace the first, and a
    step would be lost.
    """
    # No character has less than one byte, so the number of characters is checked first. It costs nothing.
    if len(text) > MAX_FIELD_BYTES or len(text.encode(errors="surrogatepass")) > MAX_FIELD_BYTES:
        raise too_large(field)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) < len(pairs):
            raise invalid_plan(pointer(field), f"the name {quote(_repeated(pairs))} is used twice in one object")
        return members

    try:
        value = json.loads(text, object_pairs_hook=unique)
        if _is_deeper(value, _MAX_DEPTH):
            raise _too_deep(field)
        # In JSON, an escape can stand for half of a surrogate pair. UTF-8 cannot encode this half, so the service could
        # neither store nor send the value.
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as error:
        raise _too_deep(field) from error
    except ValueError as error:
        fault = Fault(pointer(field), f"is not JSON ({error}); {_EXAMPLES[field]}")
        raise BadRequest(f"{field} is not JSON.", (fault,)) from error
    return value


def too_large(field: str) -> InvalidRequest:
    """Return the error for a form field that has more than MAX_FIELD_BYTES bytes."""
    detail = f"has more than {MAX_FIELD_BYTES:,} bytes; use fewer steps or shorter names"
    return InvalidRequest(f"{field}: {detail}.", (Fault(pointer(field), detail),))


def _too_deep(field: str) -> BadRequest:
    fault = Fault(pointer(field), f"has more than {_MAX_DEPTH} levels of objects and lists; {_EXAMPLES[field]}")
    return BadRequest(f"{field} is nested too deeply.", (fault,))


def _is_deeper(value: object, max_depth: int) -> bool:
    """Return whether objects and lists are nested in more than `max_depth` levels."""
    level = [value]
    for _ in range(max_depth):
        level = [inner for outer in level for inner in _content(outer)]
    return any(isinstance(value, dict | list) for value in level)


def _content(value: Any) -> Any:
    """Return the values in an object or a list."""
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _repeated(pairs: list[tuple[str, Any]]) -> str:
    """Return the first name that is used twice, or the empty text."""
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            return name
        seen.add(name)
    return ""
