"""A form that is built from the catalog accepts the values that the service accepts."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from pixtools.operations import OPERATIONS
from pixtools.settings import Settings
from serve.catalog import catalog

SERVERS = {"database_url": "postgresql://somewhere/pixtools", "redis_url": "redis://somewhere"}


def parameters(op: str, **settings: Any) -> dict[str, Any]:
    (operation,) = [each for each in catalog(Settings(**SERVERS, **settings)).operations if each.op == op]
    return operation.parameters


def sides(schema: Any) -> Iterator[dict[str, Any]]:
    """Yield each schema that describes a side of a picture, at any depth in `schema`."""
    if isinstance(schema, dict):
        if schema.get("format") == "side":
            yield schema
        for value in schema.values():
            yield from sides(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from sides(value)


@pytest.mark.parametrize("op", ["resize", "crop", "webp"])  # webp has sides inside its `resize` parameter
def test_the_maximum_of_a_side_is_the_setting(op):
    found = [side["maximum"] for side in sides(parameters(op, max_side=30_000))]

    assert len(found) >= 2
    assert set(found) == {30_000}


def test_without_a_setting_a_side_has_16384_pixels_at_most():
    assert {side["maximum"] for side in sides(parameters("resize"))} == {16_384}


def test_the_catalog_changes_nothing_else_of_a_schema():
    for operation in catalog(Settings(**SERVERS)).operations:
        shown = operation.parameters
        for side in sides(shown):
            del side["maximum"]
        assert shown == OPERATIONS[operation.op].params.model_json_schema()


def test_the_catalog_shows_the_limits_of_a_whole_job():
    limits = {"max_job_pixels": 1, "max_kept_steps": 2, "max_job_bytes": 3, "job_deadline": timedelta(seconds=4)}

    shown = catalog(Settings(**SERVERS, **limits)).limits

    assert (shown.job_pixels, shown.kept_steps, shown.job_bytes, shown.job_seconds) == (1, 2, 3, 4.0)


def test_a_catalog_leaves_the_schema_of_another_one_alone():
    small = parameters("resize", max_side=100)
    large = parameters("resize", max_side=200)

    assert ({side["maximum"] for side in sides(small)}, {side["maximum"] for side in sides(large)}) == ({100}, {200})
