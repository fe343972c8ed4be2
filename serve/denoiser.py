"""The denoiser: replicas that each own a loaded network. They have no HTTP route; dispatchers call them."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from typing import Any

from ray import serve as ray_serve
from ray.serve import Application

from dag.segments import Inferred, Progress
from pixtools import logs
from pixtools.denoising.batcher import WORD_S, Batcher
from pixtools.denoising.byte_semaphore import Places
from pixtools.denoising.engine import load_engine
from pixtools.denoising.restoration import Restoration
from pixtools.denoising.weight_source import obtain
from pixtools.errors import DenoiserDown, OutOfMemory
from pixtools.imaging.picture import Picture
from pixtools.operations.denoise import Denoise
from pixtools.settings import Settings

log = logging.getLogger(__name__)

_PICTURE_BYTES = 500_000_000  # of the pictures that are at work at a time; each takes as much again for its result


class Denoiser:
    """Denoises many pictures at a time, tile by tile."""

    def __init__(self, settings: Settings) -> None:
        logs.to_stderr()
        threads = settings.denoise_threads or len(os.sched_getaffinity(0))
        engine = load_engine(obtain(settings), settings.denoise_device, threads)
        self._weights = settings.weights_sha256
        self._batcher = Batcher(engine)
        self._places = Places(_PICTURE_BYTES)
        self._failure: Exception | None = None
        log.info("denoiser up: engine=%s", engine.name)

    async def run(
        self, shared: tuple[Any, Picture], params: Denoise, weights: str
    ) -> AsyncIterator[Progress | Inferred]:
        """Denoise a picture, both parts of Picture.share, and say how far it is: see actors.denoiser_client.

        A word comes every ten seconds at least. `weights` is the digest of those that the result is to be of. Raises
        OutOfMemory, and DenoiserDown where another replica may do better.
        """
        if weights != self._weights:  # of another deployment than its dispatcher, while one makes way for the other
            raise DenoiserDown("Its weights are others than those of the job.")
        try:
            async for word in self._denoise(*shared, params):
                yield word
        except MemoryError as error:
            raise OutOfMemory("Make the picture smaller, or give the denoiser's nodes more memory.") from error
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except Exception as error:
            # A device that failed once is not trusted again: the next check of its health ends this replica.
            log.exception("engine failed")
            self._failure = error
            raise DenoiserDown("Its engine failed.") from error

    async def _denoise(self, pixels: Any, rest: Picture, params: Denoise) -> AsyncIterator[Progress | Inferred]:
        yield Progress(0, 1)
        async with self._places.of(pixels.nbytes) as place:
            while not await place.comes_within(WORD_S):
                yield Progress(0, 1)
            # Estimates the noise: in a thread, for other pictures go on meanwhile.
            restoration = await asyncio.to_thread(Restoration, pixels, params.strength, params.noise)
            total = len(restoration) + 1
            async for done in self._batcher.restore(restoration):
                yield Progress(done, total)
            report = restoration.report
            facts: dict[str, Any] = {"sigma": round(report.sigma, 1), "denoised": report.skipped is None}
            facts |= {"skipped": report.skipped} if report.skipped else {}
            yield Progress(total, total)
            yield Inferred(restoration.output, rest, facts)
            yield Progress(total, total)  # it has left whole

    async def check_health(self) -> None:
        """Run a tile: Serve replaces a replica whose engine fails or hangs."""
        if self._failure is not None:
            raise self._failure
        await self._batcher.check()


def create(_: dict[str, str]) -> Application:
    """Build the application from the environment; raises WeightsUnusable, so that a deployment fails at once."""
    settings = Settings()
    obtain(settings)
    return ray_serve.deployment(Denoiser).bind(settings)
