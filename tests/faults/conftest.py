"""The fixtures of the fault tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from audit import Audit
from service import Stack


@pytest.fixture(scope="session")
def audit(stack: Stack) -> Iterator[Audit]:
    """The audit of the service that runs for the whole session."""
    with Audit(stack.env["PIXTOOLS_DATABASE_URL"]) as audit:
        yield audit
