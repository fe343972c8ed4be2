"""Reads the form fields that hold JSON."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from dag.faults import invalid_plan, quote
from pixtools.errors import BadRequest, Fault, pointer

_EXAMPLES = {
    "steps": 'write for instance {"web": {"op": "webp", "input": "source"}}',
    "operations": 'write for instance ["webp", "avif"]',
    "operation_params": 'write for instance {"webp": {"quality": 80}}',
}


def load(field: str, text: str) -> object:
    """Return the JSON value of a form field.

    Raises BadRequest if the text is not JSON. Raises InvalidPlan if two members of an object have the same name,
    because the second member would replace the first, and a step would be lost.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        repeated = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
        if repeated:
            raise invalid_plan([Fault(pointer(field), f"the name {quote(repeated[0])} is used twice in one object")])
        return dict(pairs)

    try:
        value = json.loads(text, object_pairs_hook=unique)
        # In JSON, an escape can stand for half of a surrogate pair. UTF-8 cannot encode this half, so the service could
        # neither store nor send the value.
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        fault = Fault(pointer(field), f"is not JSON ({error}); {_EXAMPLES[field]}")
        raise BadRequest(f"{field} is not JSON.", (fault,)) from error
    return value
