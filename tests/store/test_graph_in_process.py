"""A graph that is bound to converters in this very process: what Ray would carry passes from hand to hand."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from denoisers import Plain
from images import LIMITS, camera_jpeg
from ray.exceptions import ObjectLostError

from actors.converter import Converter
from dag.graph import Graph
from dag.plan import Plan, Source
from dag.segments import Inferred, Inputs, Order
from dag.specification import build
from pixtools.blob_store import BlobStore
from pixtools.denoising.restoration import denoise
from pixtools.errors import DenoiserDown
from pixtools.jobs.outcomes import Began, Crashed, Done, Failed, Outcome
from pixtools.operations.base.kinds import Params

pytestmark = pytest.mark.anyio


class Here:
    """Converters of this process behind the calls that a graph makes of Ray's, and the pool that lends them."""

    def __init__(self, converter: Converter, idle: int) -> None:
        self._converter = converter
        self.idle = idle
        self.run = self

    async def acquire(self, memory_bytes: int) -> Here:  # noqa: ARG002
        return self

    def release(self, converter: Any) -> None: ...
    def discard(self, converter: Any) -> None: ...

    def options(self, **_: object) -> Here:
        return self

    async def remote(self, order: Order, *pixels: Any) -> AsyncIterator[asyncio.Future[Any]]:
        for item in self._converter.run(order, *[await ref for ref in pixels]):
            ref: asyncio.Future[Any] = asyncio.Future()
            ref.set_result(item)
            yield ref
            await asyncio.sleep(0)


class HereToo:
    """A denoiser of this process: a real one, of a network that has learned nothing, which is enough to tell apart."""

    def __init__(self) -> None:
        self.pictures = 0
        self.failure: Exception | None = None

    async def run(self, pixels: asyncio.Future[Any], params: Params) -> asyncio.Future[Any]:
        self.pictures += 1
        if self.failure:
            raise self.failure
        frames, rest = await pixels
        made, report = denoise(Plain(), frames, params.strength)
        inferred: asyncio.Future[Any] = asyncio.Future()
        inferred.set_result(Inferred(made, rest, {"sigma": report.sigma}))
        return inferred


Runner = Callable[..., Any]


@pytest.fixture
def run(settings) -> Runner:
    """Run the work that is left of a document, with the artifacts that it has already; return what came of it."""
    blobs, owner, source = BlobStore(settings), uuid.uuid4().hex, camera_jpeg()
    denoiser = HereToo()
    sha256 = hashlib.sha256(source).hexdigest()
    blobs.put(f"sources/{sha256}", source, "image/jpeg")

    async def run(
        document: dict[str, Any], *, done: dict[str, str] | None = None, idle: int = 1
    ) -> dict[str, Done | Failed]:
        plan: Plan = build(document, Source("IMG_1.jpg", sha256, (6000, 4000)), 50, LIMITS)
        reported: list[Outcome] = []
        graph = Graph(
            plan,
            inputs=Inputs(owner, f"sources/{sha256}", len(source)),
            converters=Here(Converter(settings), idle),
            denoiser=denoiser,
            deadline_s=10,
            report=reported.append,
        )
        async with asyncio.timeout(20):
            there = frozenset(done or {})
            await graph.run(plan.work(there, frozenset(), filed=there), done or {})
        return {item.step: item for item in reported if not isinstance(item, Began)}

    run.denoiser = denoiser  # type: ignore[attr-defined]
    return run


KEPT = {
    "t": {"op": "resize", "input": "source", "width": 48, "keep": True},
    "a": {"op": "png", "input": "t"},
    "z": {"op": "zip", "input": ["t", "a"]},
}


@pytest.mark.parametrize("idle", [1, 4])
async def test_every_step_is_reported_done(run, idle):
    document = KEPT | {"b": {"op": "png", "input": "source"}, "c": {"op": "webp", "input": "source"}}

    outcomes = await run(document, idle=idle)

    assert outcomes.keys() == document.keys()
    assert {type(outcome) for outcome in outcomes.values()} == {Done}


async def test_a_transform_whose_file_is_there_runs_again_for_those_who_need_its_pixels(run):
    first = await run(KEPT)

    again = await run(KEPT, done={"t": first["t"].stored.blob_key})

    assert {type(outcome) for outcome in again.values()} == {Done}
    assert {"a", "z"} <= again.keys()
    assert again["z"].stored.sha256 == first["z"].stored.sha256


async def test_a_bundle_of_what_is_there_already_is_made_alone(run):
    first = await run(KEPT)

    again = await run(KEPT, done={name: first[name].stored.blob_key for name in ("t", "a")})

    assert again.keys() == {"z"}


async def test_a_bundle_of_the_source_alone_holds_the_source(run):
    outcomes = await run({"z": {"op": "zip", "input": "source"}})

    assert outcomes["z"].stored.bytes > 2_000


CLEANED = {
    "d": {"op": "denoise", "input": "source"},
    "a": {"op": "png", "input": "d"},
    "b": {"op": "webp", "input": "d", "lossless": True},
    "c": {"op": "jpg", "input": "source"},
    "z": {"op": "zip", "input": ["d", "a", "b"]},
}


@pytest.mark.parametrize("idle", [1, 4])
async def test_an_inference_runs_between_the_steps_before_and_after_it(run, idle):
    outcomes = await run(CLEANED, idle=idle)

    assert outcomes.keys() == CLEANED.keys()
    assert {type(outcome) for outcome in outcomes.values()} == {Done}
    assert run.denoiser.pictures == 1
    assert outcomes["d"].stored.result["sigma"] >= 0
    assert outcomes["a"].stored.sha256 != outcomes["c"].stored.sha256


@pytest.mark.parametrize("idle", [1, 4])
async def test_what_an_inference_made_is_made_once_whatever_is_asked_of_it_later(run, idle):
    first = await run(CLEANED)

    again = await run(CLEANED, done={"d": first["d"].stored.blob_key}, idle=idle)

    assert run.denoiser.pictures == 1
    assert again.keys() == CLEANED.keys() - {"d"}
    for name in ("a", "b", "z"):
        assert again[name].stored.sha256 == first[name].stored.sha256, name


async def test_inferences_follow_one_another(run):
    document = CLEANED | {"e": {"op": "denoise", "input": "d"}, "f": {"op": "resize", "input": "e", "width": 20}}

    outcomes = await run(document)

    assert {type(outcome) for outcome in outcomes.values()} == {Done}
    assert run.denoiser.pictures == 2
    assert (outcomes["f"].stored.width, outcomes["e"].stored.width) == (20, outcomes["d"].stored.width)


async def test_a_denoiser_that_cannot_fails_its_step_and_the_others_go_on(run):
    run.denoiser.failure = DenoiserDown("none is there")

    outcomes = await run(CLEANED)

    assert isinstance(outcomes["c"], Done)
    assert isinstance(outcomes["d"], Failed)
    assert outcomes["d"].error is run.denoiser.failure
    assert outcomes.keys() == {"c", "d"}, "of what reads a failed step nothing is said"


async def test_a_picture_that_is_lost_on_its_way_counts_as_a_crash_of_its_step(run):
    run.denoiser.failure = ObjectLostError("it", None, "")

    outcomes = await run(CLEANED)

    assert outcomes == {"c": outcomes["c"], "d": Crashed("d")}
