"""Shares one engine among many pictures. The pictures take turns, and tiles of equal shape run in one call."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import cast

import numpy as np

from pixtools.denoising.engine import Engine, Tiles
from pixtools.denoising.restoration import Pixels, Restoration, Tile

PROGRESS_INTERVAL_S = 10.0
"""Longest gap, in seconds, between progress messages."""


@dataclass(eq=False)
class Waiter:
    """A tile that waits for the engine."""

    pixels: Pixels  # (h, w, 3)
    strength: float
    start_tag: float  # the waiter with the lowest tag runs first: see Batcher
    result: asyncio.Future[Pixels] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def fits_in_a_batch_with(self, other: Waiter) -> bool:
        """Return whether both tiles have the same shape and type, so that they can be stacked into one array."""
        return self.pixels.shape == other.pixels.shape and self.pixels.dtype == other.pixels.dtype


class Batcher:
    """Runs the engine in a thread, one batch of tiles at a time, and shares the engine fairly among pictures.

    The order is start-time fair queueing (P. Goyal, H. Vin, H. Cheng, SIGCOMM 1996). Each waiting tile has a start tag,
    and the tile with the lowest tag runs next. Tags measure the engine's work by the number of values in tile arrays:

    - The virtual time is the highest start tag among the tiles that have gone to the engine.
    - The first tile of a picture gets the virtual time as its tag.
    - For each further tile, the size of the previous tile is added to its tag. The further tile gets this sum as its
      tag, or the virtual time if the virtual time is higher.

    So the tags of a picture grow with the work that the engine has done for the picture. The picture with the least
    work goes next. A small new picture runs before the second tiles of all other pictures. New pictures cannot delay an
    old picture for ever, because a new tag is never below the virtual time.

    Tiles of the same shape and type that wait at the same time share a call, up to `engine.batch_pixels` pixels.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._max_pixels = engine.batch_pixels
        self._waiting: list[Waiter] = []
        self._virtual_time = 0.0
        self._tile_added = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._running = asyncio.create_task(self._run())

    async def restore(self, restoration: Restoration) -> AsyncIterator[int]:
        """Run the tiles of a picture, and yield the number of finished tiles.

        Yields whenever tiles finish, and at least every PROGRESS_INTERVAL_S seconds. Raises the engine's error if a
        batch with a tile of this picture fails. When the iterator is closed, waiting tiles of the picture are dropped.
        """
        done, tiles = 0, restoration.tiles()
        pending: dict[asyncio.Future[Pixels], Tile] = {}
        max_pending, next_tag = self._max_pending(restoration), self._virtual_time
        try:
            while True:
                for tile in islice(tiles, max_pending - len(pending)):
                    start_tag = max(next_tag, self._virtual_time)
                    next_tag = start_tag + tile.pixels.size
                    pending[self._enqueue(Waiter(tile.pixels, restoration.strength, start_tag))] = tile
                if not pending:
                    return
                finished, _ = await asyncio.wait(
                    pending, timeout=PROGRESS_INTERVAL_S, return_when=asyncio.FIRST_COMPLETED
                )
                for future in finished:
                    restoration.put(pending.pop(future), cast("Tiles", future.result()))
                done += len(finished)
                yield done
        finally:
            for future in pending:  # a cancelled tile is not run
                future.cancel()

    async def check(self) -> None:
        """Run a small tile before all waiting tiles. Raises the engine's error if the tile fails."""
        await self._enqueue(Waiter(np.zeros((64, 64, 3), np.uint8), 1.0, start_tag=-math.inf))

    def _max_pending(self, restoration: Restoration) -> int:
        """Return how many tiles of a picture may wait: two batches, to keep the engine busy."""
        height, width, _ = restoration.shape
        return 2 * max(1, self._max_pixels // (height * width))

    def _enqueue(self, waiter: Waiter) -> asyncio.Future[Pixels]:
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
        except Exception as error:  # noqa: BLE001 (each picture of the batch raises the error, whatever it is)
            for waiter in batch:
                if not waiter.result.done():
                    waiter.result.set_exception(error)
        else:
            for waiter, result in zip(batch, results, strict=True):
                if not waiter.result.done():
                    waiter.result.set_result(cast("Pixels", result))

    def _next_batch(self) -> list[Waiter]:
        """Take the waiter with the lowest tag, and waiters of equal shape and type that fit into the call."""
        waiting = sorted(
            (waiter for waiter in self._waiting if not waiter.result.done()), key=lambda each: each.start_tag
        )
        batch: list[Waiter] = []
        free_pixels = self._max_pixels
        for waiter in waiting:
            pixels = waiter.pixels.shape[0] * waiter.pixels.shape[1]
            if not batch or (pixels <= free_pixels and waiter.fits_in_a_batch_with(batch[0])):
                batch.append(waiter)
                free_pixels -= pixels
        self._waiting = [waiter for waiter in waiting if waiter not in batch]
        if batch:
            self._virtual_time = max(self._virtual_time, batch[0].start_tag)
        return batch

    def _denoise(self, batch: list[Waiter]) -> Tiles:
        tiles = cast("Tiles", np.stack([waiter.pixels for waiter in batch]))
        return self._engine.denoise(tiles, np.array([waiter.strength for waiter in batch], np.float32))
