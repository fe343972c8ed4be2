"""Graphs run on converters in other processes. The converters share pixels, crash or miss a deadline."""

from __future__ import annotations

import asyncio
import hashlib
import io
import time

import numpy as np
import psutil
import pytest
from images import LIMITS
from PIL import Image
from process_titles import title_of

from actors import fleet
from actors.converter_pool import ConverterPool
from actors.denoiser_client import DenoiserClient
from actors.placement import NAMESPACE
from dag.graph import Graph
from dag.messages import Inputs
from dag.plan import Source
from dag.segments import ArtifactsSegment, PixelsSegment, SourceSegment, plan_segments
from dag.specification import build
from pixtools.errors import CorruptImage, DenoiserDown, StepTimedOut
from pixtools.jobs.outcomes import Crashed, Failed, Started, Succeeded

pytestmark = pytest.mark.usefixtures("cluster")

STEPS = {
    "png": {"op": "png", "input": "source"},
    "web": {"op": "webp", "input": "source"},
    "half": {"op": "resize", "input": "source", "width": 500},
    "small": {"op": "avif", "input": "half"},
    "exif": {"op": "metadata", "input": "source"},
    "all": {"op": "zip", "input": ["web", "small", "exif"]},
}
SLOW = {"slow": {"op": "avif", "input": "source", "speed": 0}}


def photo(width: int, height: int, seed: int) -> bytes:
    """Return a JPEG of smooth noise."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC).save(out, "JPEG", quality=92)
    return out.getvalue()


class Run:
    """One run of a plan, with a new converter pool and without a dispatcher."""

    def __init__(self, settings, blobs, data: bytes, steps: dict, *, converters: int, deadline_s: float = 120) -> None:
        self.settings, self.converters, self.deadline_s = settings, converters, deadline_s
        self.source = Source("a.jpg", hashlib.sha256(data).hexdigest(), (4000, 3000))
        self.plan = build(steps, self.source, 50, LIMITS)
        self.source_bytes = len(data)
        self.source_key = f"sources/test/{self.source.sha256}"
        self.outcomes = []
        blobs.put(self.source_key, data, "image/jpeg")

    async def go(self, *, before=None, meanwhile=None) -> dict:
        """Run the graph, and return the outcome of each step.

        `before(pool)` runs before the graph. `meanwhile(pool)` runs at the same time as the graph.
        """
        import ray  # noqa: PLC0415

        pool = ConverterPool(
            lambda: fleet.create_converter(self.settings),
            ray.kill,
            minimum=self.converters,
            maximum=self.converters,
            idle_s=60,
            limit_bytes=self.settings.converter_memory_bytes,
        )
        while pool.idle < self.converters:
            await asyncio.sleep(0.05)
        if before:
            await before(pool)
        graph = Graph(
            self.plan,
            inputs=Inputs("test", self.source_key, self.source_bytes),
            converters=pool,
            denoiser=DenoiserClient(self.settings, lambda: None).of("it"),
            at_once=self.converters,
            deadline_s=self.deadline_s,
            job_deadline_s=600,
            max_bytes=10**9,
            report=self.outcomes.append,
        )
        async with asyncio.TaskGroup() as group:
            if meanwhile:
                group.create_task(meanwhile(pool))
            await graph.run(frozenset(step.name for step in self.plan.steps), {}, {})
        while pool.idle:
            ray.kill(await pool.acquire(1))
        return {outcome.step: outcome for outcome in self.outcomes if not isinstance(outcome, Started)}


def test_several_converters_make_the_same_files_as_one(settings, blobs):
    data = photo(1600, 1200, 1)
    together = asyncio.run(Run(settings, blobs, data, STEPS, converters=1).go())
    run = Run(settings, blobs, data, STEPS, converters=2)
    segments = plan_segments(run.plan, frozenset(STEPS), 2)
    assert [type(segment) for segment in segments] == [SourceSegment, PixelsSegment, ArtifactsSegment]
    split = asyncio.run(run.go())
    assert split.keys() == together.keys() == STEPS.keys()
    assert all(isinstance(outcome, Succeeded) for outcome in split.values())
    for name, outcome in split.items():
        if outcome.stored:
            assert outcome.stored.sha256 == together[name].stored.sha256, name
            assert len(blobs.get(outcome.stored.blob_key)) == outcome.stored.bytes


def test_each_step_is_reported_as_started_before_it_ends(settings, blobs):
    run = Run(settings, blobs, photo(640, 480, 2), STEPS, converters=2)
    asyncio.run(run.go())
    seen = set()
    for outcome in run.outcomes:
        if isinstance(outcome, Started):
            seen.add(outcome.step)
        else:
            assert outcome.step in seen


@pytest.mark.parametrize("converters", [1, 2])
def test_a_source_that_cannot_be_decoded_fails_the_readers_of_its_pixels_only(settings, blobs, converters):
    data = photo(1600, 1200, 3)
    outcomes = asyncio.run(Run(settings, blobs, data[: len(data) // 2], STEPS, converters=converters).go())
    assert isinstance(outcomes.pop("exif"), Succeeded)
    assert outcomes.keys() == {"png", "web", "half"}  # the other steps read one of these steps, so they do not run
    assert all(isinstance(outcome.error, CorruptImage) for outcome in outcomes.values())


def test_the_death_of_a_converter_is_blamed_on_the_running_step(settings, blobs):
    later = {"op": "avif", "input": "source", "speed": 0, "quality": 30}
    steps = {"exif": {"op": "metadata", "input": "source"}, **SLOW, "later": later}
    run = Run(settings, blobs, photo(3000, 2000, 4), steps, converters=1)

    async def kill(_) -> None:
        while not any(isinstance(outcome, Started) and outcome.step == "slow" for outcome in run.outcomes):
            await asyncio.sleep(0.05)
        await asyncio.sleep(5)  # now the decoding has ended, and the encoder runs
        children = psutil.Process().children(recursive=True)
        (busy,) = [process for process in children if "ray::ConverterActor.run" in title_of(process)]
        busy.kill()

    outcomes = asyncio.run(run.go(meanwhile=kill))
    assert isinstance(outcomes["exif"], Succeeded)
    assert outcomes["slow"] == Crashed("slow")
    assert "later" not in outcomes  # step `later` is left for the next attempt


def test_a_step_beyond_its_deadline_is_ended_with_its_converter(settings, blobs):
    run = Run(settings, blobs, photo(4000, 3000, 5), SLOW, converters=1, deadline_s=2)
    started = time.monotonic()
    outcomes = asyncio.run(run.go())
    assert isinstance(outcomes["slow"], Failed)
    assert isinstance(outcomes["slow"].error, StepTimedOut)
    assert time.monotonic() - started < 60


def test_no_step_is_blamed_for_a_converter_that_died_while_it_was_idle(settings, blobs):
    run = Run(settings, blobs, photo(640, 480, 6), STEPS, converters=2)

    async def kill_both(_) -> None:
        # `ray.kill` returns before the actor is dead, so the actor could still begin the first step.
        children = psutil.Process().children(recursive=True)
        idle = [process for process in children if title_of(process).startswith("ray::ConverterActor")]
        assert len(idle) >= 2
        for process in idle:
            process.kill()
        psutil.wait_procs(idle)

    outcomes = asyncio.run(run.go(before=kill_both))
    assert outcomes.keys() == STEPS.keys()
    assert all(isinstance(outcome, Succeeded) for outcome in outcomes.values())


def test_the_fleet_is_launched_once_and_replaced_if_its_settings_change(settings, cluster):
    fleet.launch(settings)
    first = fleet_names(cluster)
    fleet.launch(settings)
    assert fleet_names(cluster) == first
    assert [stats["jobs"] for stats in asyncio.run(fleet.stats(settings))] == [0]

    fleet.launch(settings.model_copy(update={"max_attempts": 7}))
    deadline = time.monotonic() + 60
    while fleet_names(cluster) & first != {"dead-letters"}:  # the name is fixed, so every process finds it
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert len(fleet_names(cluster)) == 3
    assert asyncio.run(fleet.stats(settings)) == []
    for name in fleet_names(cluster):
        cluster.kill(cluster.get_actor(name, namespace=NAMESPACE))


def fleet_names(cluster) -> set[str]:
    """Return the names of all actors in the fleet."""
    actors = cluster.util.list_named_actors(all_namespaces=True)
    return {actor["name"] for actor in actors if actor["namespace"] == NAMESPACE}


def test_without_a_denoiser_its_step_fails_with_a_retryable_error_and_the_others_run(settings, blobs):
    steps = {
        "clean": {"op": "denoise", "input": "source"},
        "web": {"op": "webp", "input": "clean"},
        "plain": {"op": "jpg", "input": "source"},
    }

    outcomes = asyncio.run(Run(settings, blobs, photo(320, 240, 9), steps, converters=1).go())

    assert isinstance(outcomes["plain"], Succeeded)
    assert isinstance(outcomes["clean"].error, DenoiserDown)
    assert outcomes["clean"].error.retryable
    assert "not deployed" in outcomes["clean"].error.detail
    assert "web" not in outcomes
