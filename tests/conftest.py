from __future__ import annotations

import hypothesis
import pytest

# The machine is shared: how long one example takes says nothing.
hypothesis.settings.register_profile("pixtools", deadline=None)
hypothesis.settings.load_profile("pixtools")


@pytest.fixture
def anyio_backend() -> str:
    """Run `async def` tests on the loop that the service runs on."""
    return "asyncio"
