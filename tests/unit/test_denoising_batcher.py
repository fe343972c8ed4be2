"""Many pictures share one engine: sharing changes no result, and every picture makes progress."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator

import numpy as np
import pytest
from denoisers import Halving, Plain

from pixtools.denoising.batcher import Batcher
from pixtools.denoising.engine import Blend
from pixtools.denoising.restoration import Restoration, Round, Tile, denoise
from pixtools.denoising.tiles import windows

pytestmark = [pytest.mark.anyio, pytest.mark.heavy]

SIDE = 52  # side of a tile in pixels: two halos of 22, and 8 pixels between them


def noisy(height, width, channels=3, dtype=np.uint8, seed=1):
    levels = np.random.default_rng(seed).normal(0.5, 0.08, (1, height, width, channels)).clip(0, 1)
    return (levels * np.iinfo(dtype).max).round().astype(dtype)


class Gated(Plain):
    """An engine whose calls wait until `open` is called. A call fails if a tile has a pixel of the colour `poison`."""

    batch_pixels = 2 * SIDE**2
    poison = (255, 0, 255)

    def __init__(self, *, coarse: bool = False) -> None:
        super().__init__(coarse=coarse)
        self.gate = threading.Semaphore(0)
        self.calls = 0  # number of calls that have begun

    def open(self) -> None:
        self.gate.release(1_000_000)

    def denoise(self, tiles, blends):
        self.calls += 1
        assert self.gate.acquire(timeout=60)
        if (tiles == self.poison).all(axis=3).any():
            self.seen.append(tiles.shape)
            raise RuntimeError("the engine is out of memory")
        return super().denoise(tiles, blends)

    async def has_begun(self, calls: int) -> None:
        """Wait until this number of calls has begun."""
        while self.calls < calls:
            await asyncio.sleep(0.001)


@pytest.fixture
async def engine() -> AsyncIterator[Gated]:
    engine = Gated()
    yield engine
    engine.open()  # a thread that waits at the gate would keep the process alive


@pytest.fixture
async def batcher(engine: Gated) -> Batcher:
    return Batcher(engine)


async def restored(batcher, restoration):
    """Denoise a picture. Return the result and the reported numbers of finished tiles."""
    reported = [done async for done in batcher.restore(restoration)]
    return restoration.output, reported


def start(batcher, pixels, strength=1.0):
    return asyncio.create_task(restored(batcher, Restoration(pixels, Blend(strength, strength), "any", SIDE)))


async def has_waiting(batcher, tiles):
    """Wait until this number of tiles waits for the engine."""
    while len(batcher._waiting) < tiles:
        await asyncio.sleep(0.001)


async def queued(batcher, pixels):
    """Start a picture while the engine is busy, and return its task as soon as its tiles wait."""
    before = len(batcher._waiting)
    task = start(batcher, pixels)
    await has_waiting(batcher, before + 1)
    return task


async def test_many_pictures_at_once_have_the_same_results_as_each_alone(engine, batcher):
    engine.open()
    pictures = [
        (noisy(50, 64), 1.0),
        (noisy(50, 64, seed=2), 0.5),
        (noisy(40, 33, channels=1), 1.0),
        (noisy(60, 48, channels=4), 0.7),
        (noisy(50, 64, dtype=np.uint16), 1.0),
    ]

    tasks = [start(batcher, pixels, strength) for pixels, strength in pictures]

    for task, (pixels, strength) in zip(tasks, pictures, strict=True):
        result, reported = await task
        expected, _ = denoise(Plain(), pixels, Blend(strength, strength), "any", SIDE)
        assert result.dtype == expected.dtype
        # In a batch, numbers are added in another order, so a value may be rounded to a neighbouring integer.
        assert np.abs(result.astype(int) - expected).max() <= (1 if result.dtype == np.uint8 else 2)
        assert reported == sorted(reported)
        assert reported[-1] == len(Restoration(pixels, Blend(strength, strength), "any", SIDE))


async def test_a_picture_with_a_strength_of_0_is_measured_and_stays_as_it_is(engine, batcher):
    engine.open()
    pixels = noisy(50, 64)

    result, reported = await start(batcher, pixels, strength=0)

    assert result is pixels
    assert engine.calls > 0
    assert reported[-1] > 0


async def test_coarse_noise_gets_two_passes_in_the_batcher_too():
    engine = Gated(coarse=True)
    engine.open()
    pixels = noisy(50, 64)
    restoration = Restoration(pixels, Blend(0.5, 0.5), side=SIDE)
    of_one_pass = len(restoration)

    result, reported = await restored(Batcher(engine), restoration)

    expected, report = denoise(Plain(coarse=True), pixels, Blend(0.5, 0.5), side=SIDE)
    assert np.abs(result.astype(int) - expected).max() <= 2
    assert restoration.report.passes == report.passes == 2
    assert reported == sorted(reported)
    assert reported[-1] == len(restoration) == 2 * of_one_pass + len(Restoration(noisy(25, 32), side=SIDE))


class OneRound:
    """A picture with one tile. It notes the thread of each call."""

    def __init__(self, *, is_slow: bool) -> None:
        self.is_slow = is_slow
        self.threads: list[threading.Thread] = []

    def rounds(self):
        yield Round(self.tiles(), Blend(), self.put, is_slow=self.is_slow)

    def tiles(self):
        self.threads.append(threading.current_thread())
        yield Tile(noisy(48, 48)[0], 0, windows(48, 48, SIDE)[0])

    def put(self, tile, result):  # noqa: ARG002
        self.threads.append(threading.current_thread())


@pytest.mark.parametrize("is_slow", [True, False], ids=["slow", "fast"])
async def test_a_slow_round_runs_in_another_thread(engine, batcher, is_slow):
    engine.open()
    picture = OneRound(is_slow=is_slow)

    await drain(batcher.restore(picture))

    assert [thread is threading.main_thread() for thread in picture.threads] == [not is_slow] * 2


@pytest.mark.parametrize("is_clean", [True, False], ids=["clean", "noisy"])
async def test_a_large_picture_is_probed_before_it_is_denoised(is_clean):
    engine = Halving(0.05 if is_clean else 1)
    pixels = noisy(500, 2100)
    restoration = Restoration(pixels, noise="auto", side=256)

    result, reported = await restored(Batcher(engine), restoration)

    expected, report = denoise(engine, pixels, noise="auto", side=256)
    assert restoration.report == report
    assert (result is pixels) == is_clean == (report.skipped == "clean")
    assert (result == expected).all()
    assert engine.seen[0][1:] == (96, 96, 3)
    assert max(reported) == (0 if is_clean else len(restoration))


async def test_a_small_picture_that_comes_after_a_large_one_ends_long_before_it(engine, batcher):
    engine.open()
    large = start(batcher, noisy(200, 200))
    await engine.has_begun(1)
    small = start(batcher, noisy(40, 40))

    await small
    tiles = sum(shape[0] for shape in engine.seen)

    assert tiles < 12
    assert not large.done()
    large.cancel()


async def test_a_new_picture_runs_before_the_second_tiles_of_others(engine, batcher):
    large = [start(batcher, noisy(48, 200, dtype=dtype)) for dtype in (np.uint8, np.uint16)]
    await engine.has_begun(1)
    small = await queued(batcher, noisy(40, 40))
    engine.open()

    await small

    assert engine.seen.index((1, 40, 40, 3)) <= 2
    await asyncio.gather(*large)


async def test_an_endless_series_of_small_pictures_does_not_hold_back_a_large_one(engine, batcher):
    engine.open()
    large = start(batcher, noisy(48, 100))
    count = 0
    while not large.done():
        await asyncio.gather(*(start(batcher, noisy(40, 40, seed=n)) for n in range(3)))
        count += 3
        assert count < 150

    assert count > 3


async def test_two_large_pictures_take_turns(engine, batcher):
    engine.open()
    first = start(batcher, noisy(72, 72, dtype=np.uint8))
    second = start(batcher, noisy(72, 72, dtype=np.uint16))
    order = []
    for name, task in (("first", first), ("second", second)):
        task.add_done_callback(lambda _, name=name: order.append((name, len(engine.seen))))

    await asyncio.gather(first, second)

    (_, one), (_, other) = order
    assert other == len(engine.seen)
    assert one > 0.7 * other


async def test_tiles_share_a_call_up_to_the_batch_size_if_shape_and_type_are_the_same(engine, batcher):
    block = start(batcher, noisy(41, 41))
    await engine.has_begun(1)
    alike = [await queued(batcher, noisy(48, 48, seed=n)) for n in range(3)]
    unlike = noisy(48, 32), noisy(32, 48), noisy(48, 48, 3, np.uint16)
    others = [await queued(batcher, pixels) for pixels in unlike]
    engine.open()

    await asyncio.gather(block, *alike, *others)

    assert engine.seen == [
        (1, 41, 41, 3),
        (2, 48, 48, 3),
        (1, 48, 48, 3),
        (1, 48, 32, 3),
        (1, 32, 48, 3),
        (1, 48, 48, 3),
    ]


async def test_tiles_for_another_engine_do_not_share_a_call(engine, batcher):
    block = start(batcher, noisy(41, 41))
    await engine.has_begun(1)
    other, pixels = Halving(), noisy(48, 48)
    restoration = Restoration(pixels, side=SIDE)
    ours = await queued(batcher, pixels)
    theirs = asyncio.create_task(drain(batcher.restore(restoration, other)))
    await has_waiting(batcher, 2)
    engine.open()

    await asyncio.gather(block, ours, theirs)

    assert engine.seen == [(1, 41, 41, 3), (1, 48, 48, 3)]
    assert other.seen == [(1, 48, 48, 3)]
    assert (restoration.output == pixels // 2).all()


async def test_an_engine_frees_its_memory_when_another_engine_runs():
    first, second = Halving(), Halving()
    batcher = Batcher(first)

    for engine in (first, second, second, first):
        await drain(batcher.restore(Restoration(noisy(48, 48)), engine))

    assert (first.calls_of_free, second.calls_of_free) == (1, 1)


async def drain(progress):
    async for _ in progress:
        pass


async def test_a_tile_larger_than_a_batch_runs_alone(engine, batcher):
    engine.open()

    await restored(batcher, Restoration(noisy(100, 140), side=100))

    assert engine.seen == [(1, 100, 96, 3), (1, 100, 96, 3)]


async def test_a_cancelled_picture_leaves_no_tile_waiting_and_the_others_continue(engine, batcher):
    unwanted, wanted = start(batcher, noisy(48, 200)), start(batcher, noisy(48, 40))
    await engine.has_begun(1)
    unwanted.cancel()
    with pytest.raises(asyncio.CancelledError):
        await unwanted

    engine.open()
    result, _ = await wanted

    assert engine.seen == [(2, 48, 56, 3), (1, 48, 40, 3)]  # the engine had already received the first two tiles
    assert (result != noisy(48, 40)).any()


async def test_a_picture_whose_reader_stops_leaves_no_tile_waiting(engine, batcher):
    other = start(batcher, noisy(41, 200))
    # The first call has two tiles of the other picture. Its next two tiles wait.
    await engine.has_begun(1)
    unwanted = Restoration(noisy(48, 200), side=SIDE)
    progress = batcher.restore(unwanted)
    first = asyncio.ensure_future(anext(progress))
    await has_waiting(batcher, 2 + 4)
    # The second call has two tiles of this picture. The third call has two tiles of the other picture.
    engine.gate.release(2)
    await first
    await engine.has_begun(3)
    assert [waiter.pixels.shape for waiter in batcher._waiting].count(unwanted.shape) == 2

    await progress.aclose()

    engine.open()
    await other
    await batcher.check()
    assert [shape[0] for shape in engine.seen if shape[1:] == unwanted.shape] == [2]


async def test_an_engine_error_fails_only_the_pictures_of_that_call(engine, batcher):
    bad = noisy(48, 200)
    bad[0, 20, 20] = Gated.poison
    block = start(batcher, noisy(41, 41))
    await engine.has_begun(1)
    with_it, other = await queued(batcher, noisy(48, 40)), await queued(batcher, bad)
    engine.open()

    with pytest.raises(RuntimeError, match="out of memory"):
        await other
    await asyncio.gather(block, with_it)
    await start(batcher, noisy(48, 48))
    assert engine.seen[-1] == (1, 48, 48, 3)
    # Of the tiles of the failed picture, the engine ran only those in the failed call and in the next call.
    of_bad = Restoration(bad, side=SIDE)
    ran = sum(shape[0] for shape in engine.seen if shape[1:] == of_bad.shape)
    assert 0 < ran <= 2 + 2 < len(of_bad)


async def test_an_engine_error_fails_every_picture_of_that_call(engine, batcher):
    bad = noisy(48, 48)
    bad[0, 0, 0] = Gated.poison
    block = start(batcher, noisy(41, 41))
    await engine.has_begun(1)
    beside, other = await queued(batcher, noisy(48, 48)), await queued(batcher, bad)
    engine.open()

    results = await asyncio.gather(block, beside, other, return_exceptions=True)

    assert [type(result) for result in results] == [tuple, RuntimeError, RuntimeError]


async def test_asyncio_does_not_log_an_error_that_the_picture_has_raised(engine, batcher, caplog):
    bad = noisy(48, 200)
    bad[0, 20, 20] = Gated.poison
    failing = start(batcher, bad)  # two tiles of this picture fail, but only one error is raised
    engine.open()

    with pytest.raises(RuntimeError, match="out of memory"):
        await failing
    del failing
    gc.collect()

    assert caplog.records == []


async def test_a_check_runs_before_waiting_tiles(engine, batcher):
    block = start(batcher, noisy(41, 41))
    await engine.has_begun(1)
    pictures = [await queued(batcher, noisy(48, 48, seed=n)) for n in range(4)]
    check = asyncio.create_task(batcher.check())
    await has_waiting(batcher, 5)
    engine.open()

    await asyncio.gather(block, check, *pictures)

    assert engine.seen == [(1, 41, 41, 3), (1, 64, 64, 3), (2, 48, 48, 3), (2, 48, 48, 3)]


async def test_a_check_raises_the_error_of_the_engine(engine, batcher):
    engine.open()
    engine.poison = (0, 0, 0)

    with pytest.raises(RuntimeError, match="out of memory"):
        await batcher.check()
