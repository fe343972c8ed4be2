"""The floor: what the pixels of a job cost with plain Pillow, without a service.

Each function does the work of one job with the settings of the service's operations. A pool of two processes runs it.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import repeat
from statistics import mean, median
from typing import Any

import numpy as np
from PIL import Image

PROCESSES = 2
_LANCZOS = Image.Resampling.LANCZOS
_REDUCING_GAP = 3.0

# The options that the operations of the service pass to Pillow by default. PNG: effort `fast`.
WEBP: dict[str, Any] = {"format": "WEBP", "quality": 80, "method": 4}
AVIF: dict[str, Any] = {
    "format": "AVIF", "quality": 60, "speed": 9, "subsampling": "4:2:0", "codec": "aom", "autotiling": False,
    "max_threads": 1,
}  # fmt: skip
PNG: dict[str, Any] = {"format": "PNG", "compress_level": 1, "compress_type": 3}

Work = Callable[[bytes], None]


def webp(data: bytes) -> None:
    """Decode, encode as WebP."""
    with Image.open(io.BytesIO(data)) as image:
        image.save(io.BytesIO(), **WEBP)


def three_formats(data: bytes) -> None:
    """Decode once, encode as WebP, AVIF and PNG."""
    with Image.open(io.BytesIO(data)) as image:
        for options in (WEBP, AVIF, PNG):
            image.save(io.BytesIO(), **options)


def camera(data: bytes) -> None:
    """Do three steps, each of which opens the file: a WebP 1280 pixels wide, an AVIF 320 pixels wide, and the EXIF."""
    _resized(data, 1280, WEBP)
    _resized(data, 320, AVIF)
    with Image.open(io.BytesIO(data)) as image:
        exif = image.getexif()
        dict(exif), dict(exif.get_ifd(0x8769))


def _resized(data: bytes, width: int, options: dict[str, Any]) -> None:
    with Image.open(io.BytesIO(data)) as image:
        height = round(image.height * width / image.width)
        image.resize((width, height), _LANCZOS, reducing_gap=_REDUCING_GAP).save(io.BytesIO(), **options)


def denoise(data: bytes) -> None:
    """Decode a picture, run the denoiser's engine on it, and encode as PNG and as WebP.

    The network uses one thread for each core. The service makes a PNG too: the file of the step `denoise`.
    The engine gets as many pixels as the picture has, in large tiles. There are no halos, and no joining of the tiles.
    """
    with Image.open(io.BytesIO(data)) as image:
        pixels = np.asarray(image.convert("RGB"))
    engine, largest = _engine()
    area = pixels.shape[0] * pixels.shape[1]
    tiles = -(-area // largest**2)
    side = round((area / tiles) ** 0.5)
    batch = max(1, engine.batch_pixels // side**2)
    for start in range(0, tiles, batch):
        number = min(batch, tiles - start)
        engine.denoise(np.resize(pixels, (number, side, side, 3)), np.array([(1, 1, 0)] * number, np.float32))
    for options in (PNG, WEBP):
        Image.fromarray(pixels).save(io.BytesIO(), **options)


@cache
def _engine() -> tuple[Any, int]:
    """Return the engine of the service on a CPU, and the side of the largest square tile."""
    from pixtools.denoising.dncnn import load_shipped  # noqa: PLC0415 (only the process with the network needs it)
    from pixtools.denoising.engine import load_engine  # noqa: PLC0415
    from pixtools.denoising.restoration import MAX_TILE_SIDE  # noqa: PLC0415

    return load_engine(load_shipped(), "cpu", os.cpu_count() or 1), MAX_TILE_SIDE


@dataclass(frozen=True)
class Cost:
    """What one job costs with plain Pillow. `cpu_s` are CPU seconds for each picture."""

    cpu_s: list[float]
    median_wall_s: float
    rate: float  # jobs per second

    def cpu_of(self, places: list[int]) -> float:
        """Return the mean CPU seconds of jobs on the pictures at `places`."""
        return mean(self.cpu_s[place] for place in places)


class Floor:
    """A pool of processes that run the floor."""

    def __init__(self, processes: int) -> None:
        self._pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"))
        self._processes = processes
        self._warm: set[Work] = set()

    def measure(self, work: Work, pictures: list[bytes], seconds: float) -> Cost:
        """Run `work` on all pictures, and repeat this until `seconds` have passed. The first call also warms up."""
        if work not in self._warm:
            list(self._pool.map(_timed, repeat(work), pictures[:1] * self._processes))
            self._warm.add(work)
        passes: list[list[tuple[float, float]]] = []
        began = time.perf_counter()
        while not passes or time.perf_counter() - began < seconds:
            passes.append(list(self._pool.map(_timed, repeat(work), pictures)))
        wall_s = time.perf_counter() - began
        cpu_s = [mean(cpu for cpu, _ in runs) for runs in zip(*passes, strict=True)]
        walls = [wall for one in passes for _, wall in one]
        return Cost(cpu_s, median(walls), len(walls) / wall_s)

    def close(self) -> None:
        """End the processes."""
        self._pool.shutdown(cancel_futures=True)


def _timed(work: Work, data: bytes) -> tuple[float, float]:
    """Return the CPU seconds of all threads, and the wall-clock seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    work(data)
    return time.process_time() - cpu, time.perf_counter() - wall
