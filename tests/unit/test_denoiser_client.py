"""The denoiser client sends a picture again if a replica dies. The replicas are fake, and the clock is virtual."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from ray import serve as ray_serve
from ray.exceptions import ActorDiedError
from virtual_time import VirtualTimeLoop

from actors.denoiser_client import DenoiserClient
from pixtools.errors import DenoiserDown
from pixtools.operations import get
from pixtools.settings import Settings

pytestmark = pytest.mark.anyio

SETTINGS = Settings(database_url="postgresql://none", redis_url="redis://none")


@pytest.fixture
def anyio_backend():
    return "asyncio", {"loop_factory": VirtualTimeLoop}


class DyingReplicas:
    """The handle of a deployment whose replicas die as soon as they get a picture. `times` has the time of each try."""

    def __init__(self) -> None:
        self.run = self
        self.times: list[float] = []
        self._began = asyncio.get_running_loop().time()

    def options(self, **_: Any) -> DyingReplicas:
        return self

    def remote(self, *_: Any) -> DyingReplicas:
        self.times.append(asyncio.get_running_loop().time() - self._began)
        return self

    async def _to_object_ref_gen(self) -> Any:
        raise ActorDiedError

    def cancel(self) -> None:
        pass


async def test_a_picture_is_given_up_right_after_its_fifth_try(monkeypatch):
    replicas = DyingReplicas()
    monkeypatch.setattr(ray_serve, "get_deployment_handle", lambda *_: replicas)
    client = DenoiserClient(SETTINGS, lambda: None)
    began = asyncio.get_running_loop().time()

    with pytest.raises(DenoiserDown, match="5 tries"):
        await client.run("a job", None, get("denoise").params())

    assert replicas.times == pytest.approx([0, 1, 4, 14, 44], abs=0.1)
    assert asyncio.get_running_loop().time() - began == pytest.approx(44, abs=0.1)
    assert client.jobs == 0
