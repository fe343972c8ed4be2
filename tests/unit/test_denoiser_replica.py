"""A denoiser replica runs in the process of the test, with a real batcher, a fake engine and a virtual clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest
from denoisers import Halving
from virtual_time import VirtualTimeLoop, cancel_other_tasks

from dag.messages import InferenceProgress, Inferred
from pixtools.denoising.batcher import Batcher
from pixtools.denoising.byte_semaphore import ByteSemaphore
from pixtools.denoising.engine import BLOCK, Denoised
from pixtools.errors import DenoiserDown, OutOfMemory
from pixtools.imaging.picture import Picture
from pixtools.operations.denoise import Denoise
from serve.denoiser import Denoiser

pytestmark = pytest.mark.anyio

WEIGHTS, WHITE = "ab" * 32, "ef" * 32


@pytest.fixture
def anyio_backend():
    return "asyncio", {"loop_factory": VirtualTimeLoop}


class Inverter:
    """An engine that inverts each pixel. If `failure` is set, the engine raises this error."""

    name = "inverter"
    batch_pixels = 64 * 64

    def __init__(self) -> None:
        self.failure: BaseException | None = None

    def denoise(self, tiles, blends):  # noqa: ARG002
        if self.failure is not None:
            raise self.failure
        count, height, width, _ = tiles.shape
        blocks = np.ones((count, height // BLOCK, width // BLOCK, 6), np.float32)
        return Denoised(255 - tiles, blocks, blocks)

    def free(self) -> None:
        """Nothing is kept between calls."""


@pytest.fixture
async def engine() -> AsyncIterator[Inverter]:
    yield Inverter()
    await cancel_other_tasks()


@pytest.fixture
async def denoiser(engine: Inverter) -> Denoiser:
    return Denoiser(Batcher(engine), ByteSemaphore(1_000), {(WEIGHTS, "normal"): engine})


def picture(width: int = 40, height: int = 30) -> tuple[np.ndarray, Picture]:
    """Return an RGB picture in middle grey with much noise, as the two values that `Picture.share` returns."""
    noise = np.random.default_rng(1).normal(128, 20, (1, height, width, 3))
    return noise.clip(0, 255).astype(np.uint8), Picture(())


async def messages(stream: AsyncIterator[InferenceProgress | Inferred]) -> list[InferenceProgress | Inferred]:
    return [message async for message in stream]


async def results(stream: AsyncIterator[InferenceProgress | Inferred]) -> list[Inferred]:
    return [message for message in await messages(stream) if isinstance(message, Inferred)]


async def test_the_result_is_between_two_messages_that_all_is_done(denoiser):
    pixels, rest = picture(200, 150)

    *progress, all_done, result, sent = await messages(denoiser.run((pixels, rest), Denoise(), WEIGHTS))

    assert isinstance(result, Inferred)
    assert (result.frames == 255 - pixels).all()
    assert result.result["denoised"]
    assert result.result["sigma"] > 0
    assert all_done == sent == InferenceProgress(2, 2)
    assert progress[0] == InferenceProgress(0, 1)
    assert all(message.done < message.total for message in progress)


@pytest.mark.parametrize(
    ("weights", "params"), [(WHITE, Denoise(noise="white")), (WEIGHTS, Denoise(effort="fast"))], ids=["white", "fast"]
)
async def test_the_digest_of_the_weights_and_the_effort_select_the_engine(engine, weights, params):
    engines = {(WEIGHTS, "normal"): engine, (weights, params.effort): Halving()}
    denoiser = Denoiser(Batcher(engine), ByteSemaphore(100_000), engines)
    pixels, rest = picture()

    (inverted,) = await results(denoiser.run((pixels, rest), Denoise(), WEIGHTS))
    (halved,) = await results(denoiser.run((pixels, rest), params, weights))

    assert (inverted.frames == 255 - pixels).all()
    assert (halved.frames == pixels // 2).all()


async def test_a_dispatcher_of_an_earlier_version_gives_no_effort(denoiser):
    params = Denoise()
    del params.__dict__["effort"]  # as in a pickle of the earlier version
    pixels, rest = picture()

    (inverted,) = await results(denoiser.run((pixels, rest), params, WEIGHTS))

    assert (inverted.frames == 255 - pixels).all()


async def test_progress_rises_with_the_tiles(denoiser):
    stream = denoiser.run(picture(2_000, 100), Denoise(), WEIGHTS)

    done = [message.done for message in await messages(stream) if isinstance(message, InferenceProgress)]

    assert done == sorted(done)
    assert len(set(done)) > 2


async def test_a_picture_with_a_strength_of_0_is_returned_as_it_is(denoiser):
    pixels, rest = picture()

    stream = denoiser.run((pixels, rest), Denoise(strength=0), WEIGHTS)

    (result,) = await results(stream)
    assert (result.frames == pixels).all()
    assert (result.result["denoised"], result.result["skipped"]) == (False, "strength")


async def test_a_picture_that_waits_for_memory_gets_a_progress_message_every_ten_seconds(denoiser):
    """Without messages, the dispatcher that waits for the picture would give up after a minute."""
    time = asyncio.get_running_loop().time
    first = denoiser.run(picture(), Denoise(), WEIGHTS)
    while (await anext(first)).done == 0:
        pass  # the first picture now holds all memory until its stream is closed
    second = denoiser.run(picture(), Denoise(), WEIGHTS)
    began = time()

    received = [(await anext(second), round(time() - began)) for _ in range(4)]
    assert received == [(InferenceProgress(0, 1), at_s) for at_s in (0, 10, 20, 30)]
    await first.aclose()

    assert isinstance((await messages(second))[-2], Inferred)


async def test_other_weights_than_the_loaded_ones_are_refused(denoiser):
    with pytest.raises(DenoiserDown, match="no engine for the weights"):
        await messages(denoiser.run(picture(), Denoise(), "cd" * 32))

    await denoiser.check_health()


async def test_after_an_engine_error_the_replica_fails_its_health_checks_for_good(denoiser, engine):
    engine.failure = RuntimeError("the device is gone")
    with pytest.raises(DenoiserDown):
        await messages(denoiser.run(picture(), Denoise(), WEIGHTS))

    engine.failure = None

    with pytest.raises(RuntimeError, match="the device is gone"):
        await denoiser.check_health()


async def test_a_health_check_runs_the_engine(denoiser, engine):
    await denoiser.check_health()
    engine.failure = RuntimeError("the device is gone")

    with pytest.raises(RuntimeError):
        await denoiser.check_health()


async def test_a_picture_too_large_for_the_memory_fails_alone(denoiser, engine):
    engine.failure = MemoryError()
    with pytest.raises(OutOfMemory):
        await messages(denoiser.run(picture(), Denoise(), WEIGHTS))
    engine.failure = None

    await denoiser.check_health()
    assert isinstance((await messages(denoiser.run(picture(), Denoise(), WEIGHTS)))[-2], Inferred)
