"""Tiles of many pictures on one engine: in turn, and together where they are alike."""

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

WORD_S = 10.0
"""How long nobody is left without a word, though others be at work."""


@dataclass(eq=False)
class _Turn:
    """A tile that waits for the engine."""

    pixels: Pixels  # (h, w, 3)
    strength: float
    start: float  # those with the least go first: see Batcher
    result: asyncio.Future[Pixels] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def is_like(self, other: _Turn) -> bool:
        return self.pixels.shape == other.pixels.shape and self.pixels.dtype == other.pixels.dtype


class Batcher:
    """Runs the engine in a thread of its own, on as many waiting tiles of one shape and type as are worth a call.

    Pictures share it evenly (start-time fair queueing: P. Goyal, H. Vin, H. Cheng, SIGCOMM 1996). A tile starts where
    the pixels of its picture's earlier ones end, and that of a new picture where the one at the engine does: so a small
    picture goes ahead of the second tiles of all others, and nobody waits for ever.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._max_pixels = engine.batch_pixels
        self._waiting: list[_Turn] = []
        self._now = 0.0  # where the last tile that went to the engine starts
        self._news = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._running = asyncio.create_task(self._run())

    async def restore(self, restoration: Restoration) -> AsyncIterator[int]:
        """Run the tiles of a picture, and yield how many are done: as it goes on, and every ten seconds at least."""
        done, tiles = 0, restoration.tiles()
        at_work: dict[asyncio.Future[Pixels], Tile] = {}
        most, end = self._at_once(restoration), self._now
        try:
            while True:
                for tile in islice(tiles, most - len(at_work)):
                    start = max(end, self._now)
                    end = start + tile.pixels.size
                    at_work[self._queue(_Turn(tile.pixels, restoration.strength, start))] = tile
                if not at_work:
                    return
                finished, _ = await asyncio.wait(at_work, timeout=WORD_S, return_when=asyncio.FIRST_COMPLETED)
                for future in finished:
                    restoration.put(at_work.pop(future), cast("Tiles", future.result()))
                done += len(finished)
                yield done
        finally:
            for future in at_work:  # of a picture that nobody wants any longer
                future.cancel()

    async def check(self) -> None:
        """Run a small tile before all others; raises what the engine raises."""
        await self._queue(_Turn(np.zeros((64, 64, 3), np.uint8), 1.0, start=-math.inf))

    def _at_once(self, restoration: Restoration) -> int:
        """Return how many tiles of a picture may wait: enough that the next batch is there when one is done."""
        height, width, _ = restoration.shape
        return 2 * max(1, self._max_pixels // (height * width))

    def _queue(self, turn: _Turn) -> asyncio.Future[Pixels]:
        self._waiting.append(turn)
        self._news.set()
        return turn.result

    async def _run(self) -> None:
        while True:
            await self._news.wait()
            batch = self._next_batch()
            if not batch:
                self._news.clear()
                continue
            await self._run_together(batch)

    async def _run_together(self, batch: list[_Turn]) -> None:
        try:
            results = await asyncio.get_running_loop().run_in_executor(self._thread, self._denoise, batch)
        except Exception as error:  # noqa: BLE001 (whatever it is belongs to those who wait)
            for turn in batch:
                if not turn.result.done():
                    turn.result.set_exception(error)
        else:
            for turn, result in zip(batch, results, strict=True):
                if not turn.result.done():
                    turn.result.set_result(cast("Pixels", result))

    def _next_batch(self) -> list[_Turn]:
        """Take the tile whose turn it is, and those like it that fit beside it."""
        waiting = sorted((turn for turn in self._waiting if not turn.result.done()), key=lambda turn: turn.start)
        batch: list[_Turn] = []
        room = self._max_pixels
        for turn in waiting:
            pixels = turn.pixels.shape[0] * turn.pixels.shape[1]
            if not batch or (pixels <= room and turn.is_like(batch[0])):
                batch.append(turn)
                room -= pixels
        self._waiting = [turn for turn in waiting if turn not in batch]
        if batch:
            self._now = max(self._now, batch[0].start)
        return batch

    def _denoise(self, batch: list[_Turn]) -> Tiles:
        tiles = cast("Tiles", np.stack([turn.pixels for turn in batch]))
        return self._engine.denoise(tiles, np.array([turn.strength for turn in batch], np.float32))
