"""Shares engines among many pictures. The pictures take turns. Tiles of equal shape share one call of an engine."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import numpy as np

from pixtools.denoising.dncnn import CHANNELS
from pixtools.denoising.engine import Blend, Denoised, Engine, LastEngine, Pixels, Tiles
from pixtools.denoising.restoration import Restoration, Round, Tile

T = TypeVar("T")

PROGRESS_INTERVAL_S = 10.0
"""Longest time, in seconds, between two progress messages of a picture."""


@dataclass(eq=False)
class Waiter:
    """A tile that waits for the engine."""

    pixels: Pixels  # (h, w, 3)
    blend: Blend
    engine: Engine
    start_tag: float  # the waiter with the lowest tag runs first: see Batcher
    result: asyncio.Future[Denoised] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def fits_in_a_batch_with(self, other: Waiter) -> bool:
        """Return whether both tiles are for the same engine, and have the same shape and type.

        Only these tiles can be stacked into one array.
        """
        return (
            self.engine is other.engine
            and self.pixels.shape == other.pixels.shape
            and self.pixels.dtype == other.pixels.dtype
        )


@dataclass
class _Clock:
    """The start tag of the next tile of a picture."""

    tag: float


class Batcher:
    """Runs engines in one thread, one batch of tiles at a time, and shares the thread fairly among pictures.

    The caller may give an engine for a picture. The default is the engine of the batcher.

    The method is start-time fair queueing (P. Goyal, H. Vin, H. Cheng, SIGCOMM 1996). Each waiting tile has a start
    tag, and the tile with the lowest tag runs next. Tiles with the same tag run in the order in which they arrived. A
    tag is an amount of work. The work for a tile is its size, the number of values in its array. The tags are set in
    this way:

    - When a batch goes to the engine, the virtual time rises to the lowest tag in the batch. The virtual time
      never falls.
    - The first tile of a picture gets the virtual time as its tag.
    - Each further tile gets the tag of the previous tile plus the size of the previous tile. If the virtual time is
      higher than this sum, the further tile gets the virtual time.

    So the tags of a picture grow with the work that the engine has done for the picture. The picture with the least
    work goes next. The first tile of a new picture runs before the second waiting tile of each other picture. New
    pictures cannot delay an old picture for ever, because a new tag is never below the virtual time.

    Waiting tiles of the same engine, shape and type share a call of the engine, up to `engine.batch_pixels` pixels.

    When another engine runs, the memory of the previous engine is freed. So if the tiles of two engines alternate, each
    call first allocates its memory.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._last_engine = LastEngine()
        self._waiting: list[Waiter] = []
        self._virtual_time = 0.0
        self._tile_added = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._running = asyncio.create_task(self._run())

    async def restore(self, restoration: Restoration, engine: Engine | None = None) -> AsyncIterator[int]:
        """Denoise the tiles of a picture, and yield the number of tiles that are finished so far.

        By default, `engine` is the engine of the batcher.

        Yields whenever tiles finish, and at least every PROGRESS_INTERVAL_S seconds. Probes do not count.
        Raises the engine's error if a batch with a tile of this picture fails. When the iterator is closed, waiting
        tiles of the picture are dropped.
        """
        done, clock, rounds = 0, _Clock(self._virtual_time), restoration.rounds()
        while (of_round := await asyncio.to_thread(next, rounds, None)) is not None:
            # `aclosing` drops the waiting tiles as soon as this iterator is closed.
            async with aclosing(self._run_round(of_round, clock, engine or self._engine)) as steps:
                async for finished in steps:
                    done += 0 if of_round.is_probing else finished
                    yield done

    async def _run_round(self, of_round: Round, clock: _Clock, engine: Engine) -> AsyncGenerator[int, None]:
        """Run the engine on the tiles of a round, and give each result to the round.

        Yield whenever tiles have finished, and at least every PROGRESS_INTERVAL_S seconds. Each yielded number is the
        number of tiles that have finished since the last yield.
        """
        pending: dict[asyncio.Future[Denoised], Tile] = {}
        max_pending = 1  # until the first tile shows its size
        try:
            while True:
                while len(pending) < max_pending:
                    tile = await _call(of_round, next, of_round.tiles, None)
                    if tile is None:
                        break
                    max_pending = _max_pending(tile, engine)
                    clock.tag = max(clock.tag, self._virtual_time)
                    pending[self._enqueue(Waiter(tile.pixels, of_round.blend, engine, clock.tag))] = tile
                    clock.tag += tile.pixels.size
                if not pending:
                    return
                finished, _ = await asyncio.wait(
                    pending, timeout=PROGRESS_INTERVAL_S, return_when=asyncio.FIRST_COMPLETED
                )
                for future in finished:
                    await _call(of_round, of_round.put, pending.pop(future), future.result())
                yield len(finished)
        finally:
            for future in pending:  # the engine does not run a tile whose future is cancelled
                future.cancel()

    async def check(self) -> None:
        """Run a small tile before all waiting tiles. Raises the engine's error if the tile fails."""
        await self._enqueue(Waiter(np.zeros((64, 64, 3), np.uint8), Blend(), self._engine, start_tag=-math.inf))

    def _enqueue(self, waiter: Waiter) -> asyncio.Future[Denoised]:
        self._waiting.append(waiter)
        self._tile_added.set()
        return waiter.result

    async def _run(self) -> None:
        while True:
            await self._tile_added.wait()
            batch = self._next_batch()
            if not batch:
                self._tile_added.clear()
                continue
            await self._run_batch(batch)

    async def _run_batch(self, batch: list[Waiter]) -> None:
        try:
            results = await asyncio.get_running_loop().run_in_executor(self._thread, self._denoise, batch)
        except Exception as error:  # noqa: BLE001 (any error is passed on to each picture of the batch)
            for waiter in batch:
                if not waiter.result.done():
                    waiter.result.set_exception(error)
        else:
            for waiter, result in zip(batch, results.each(), strict=True):
                if not waiter.result.done():
                    waiter.result.set_result(result)

    def _next_batch(self) -> list[Waiter]:
        """Take the waiters for the next call of an engine out of the queue, and return them.

        The waiter with the lowest tag comes first. The other waiters fit into the same call.
        """
        waiting = sorted(
            (waiter for waiter in self._waiting if not waiter.result.done()), key=lambda each: each.start_tag
        )
        batch: list[Waiter] = []
        free_pixels = waiting[0].engine.batch_pixels if waiting else 0
        for waiter in waiting:
            pixels = waiter.pixels.shape[0] * waiter.pixels.shape[1]
            if not batch or (pixels <= free_pixels and waiter.fits_in_a_batch_with(batch[0])):
                batch.append(waiter)
                free_pixels -= pixels
        self._waiting = [waiter for waiter in waiting if waiter not in batch]
        if batch:
            self._virtual_time = max(self._virtual_time, batch[0].start_tag)
        return batch

    def _denoise(self, batch: list[Waiter]) -> Denoised:
        engine, tiles = batch[0].engine, cast("Tiles", np.stack([waiter.pixels for waiter in batch]))
        self._last_engine.change_to(engine)
        return engine.denoise(tiles, np.array([waiter.blend.as_row() for waiter in batch], np.float32))


async def _call(of_round: Round, function: Callable[..., T], *arguments: Any) -> T:
    """Call a function of a round. If the round is slow, another thread runs it, so that other pictures do not wait."""
    return await asyncio.to_thread(function, *arguments) if of_round.is_slow else function(*arguments)


def _max_pending(tile: Tile, engine: Engine) -> int:
    """Return how many tiles of the size of `tile` may wait: two batches. So the engine stays busy."""
    return 2 * max(1, CHANNELS * engine.batch_pixels // tile.pixels.size)
