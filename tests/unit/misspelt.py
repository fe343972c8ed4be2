"""Documents with one misspelt key, for tests of configuration files."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

Path = tuple[str | int, ...]


def keys(value: Any, path: Path = ()) -> Iterator[tuple[Path, str]]:
    """Yield each key of each mapping in a document, with the path of the mapping."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield path, key
            yield from keys(inner, (*path, key))
    if isinstance(value, list):
        for index, inner in enumerate(value):
            yield from keys(inner, (*path, index))


def misspelt(document: Any, path: Path, key: str) -> Any:
    """Return a copy of a document, with one more letter in a key of the mapping at `path`."""
    changed = copy.deepcopy(document)
    mapping = changed
    for part in path:
        mapping = mapping[part]
    mapping[f"{key}x"] = mapping.pop(key)
    return changed
