"""The denoiser: a Serve deployment that only dispatchers call. It has no route. Each replica owns a loaded network."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

from ray import serve as ray_serve
from ray.serve import Application
from ray.util.metrics import Counter, Gauge

from dag.messages import InferenceProgress, Inferred
from pixtools import logs
from pixtools.denoising.batcher import PROGRESS_INTERVAL_S, Batcher
from pixtools.denoising.byte_semaphore import ByteSemaphore
from pixtools.denoising.engine import load_engine
from pixtools.denoising.restoration import Restoration
from pixtools.denoising.weight_source import load_weights
from pixtools.errors import DenoiserDown, OutOfMemory
from pixtools.imaging.picture import Picture
from pixtools.operations.denoise import Denoise
from pixtools.settings import Settings

log = logging.getLogger(__name__)

_MAX_PICTURE_BYTES = 500_000_000  # of all pictures that run at one time; their results need as many bytes again


class Denoiser:
    """Denoises several pictures at a time, tile by tile."""

    def __init__(self, batcher: Batcher, semaphore: ByteSemaphore, weights_sha256: str) -> None:
        """`semaphore` limits the total size of all pictures. `weights_sha256` is the digest of the loaded weights."""
        self._batcher = batcher
        self._semaphore = semaphore
        self._weights = weights_sha256
        self._engine_failure: Exception | None = None
        self._pixels_here = 0
        self._megapixels = Gauge(
            "pixtools_denoiser_megapixels", "Megapixels that wait at the denoiser or are denoised."
        )
        self._done = Counter("pixtools_denoised_megapixels_total", "Megapixels that were denoised.")

    async def run(
        self, shared: tuple[Any, Picture], params: Denoise, weights: str
    ) -> AsyncIterator[InferenceProgress | Inferred]:
        """Denoise a picture, and yield progress messages and the result. dag.messages gives the order of the messages.

        `shared` holds the two values of Picture.share. `weights` is the digest of the weights that the job asks for.
        The step key depends on this digest. A message comes at least every ten seconds.

        Raises OutOfMemory, and DenoiserDown if another replica may succeed.
        """
        # During a deployment, replicas with old weights and replicas with new weights run side by side.
        if weights != self._weights:
            raise DenoiserDown("The replica has other weights than those that the job asks for.")
        try:
            async for message in self._denoise(*shared, params):
                yield message
        except MemoryError as error:
            raise OutOfMemory("Make the picture smaller, or give the denoiser's nodes more memory.") from error
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except Exception as error:
            # An engine that failed once may fail again. So the next health check raises this error, and Serve replaces
            # the replica.
            log.exception("engine failed")
            self._engine_failure = error
            raise DenoiserDown("The engine of the replica failed.") from error

    async def _denoise(
        self, pixels: Any, rest: Picture, params: Denoise
    ) -> AsyncIterator[InferenceProgress | Inferred]:
        yield InferenceProgress(0, 1)
        with self._counted(pixels.size // pixels.shape[-1]):
            async for message in self._denoise_pixels(pixels, rest, params):
                yield message

    @contextmanager
    def _counted(self, pixels: int) -> Iterator[None]:
        self._add(pixels)
        try:
            yield
            self._done.inc(pixels / 1e6)
        finally:
            self._add(-pixels)

    def _add(self, pixels: int) -> None:
        self._pixels_here += pixels
        self._megapixels.set(self._pixels_here / 1e6)

    async def _denoise_pixels(
        self, pixels: Any, rest: Picture, params: Denoise
    ) -> AsyncIterator[InferenceProgress | Inferred]:
        async with self._semaphore.reserve(pixels.nbytes) as reservation:
            while not await reservation.granted_within(PROGRESS_INTERVAL_S):
                yield InferenceProgress(0, 1)
            # Restoration estimates the noise, which takes time. The estimate runs in a thread, so that the tiles of
            # other pictures do not wait for it.
            restoration = await asyncio.to_thread(Restoration, pixels, params.strength, params.noise)
            total = len(restoration) + 1
            async for done in self._batcher.restore(restoration):
                yield InferenceProgress(done, total)
            report = restoration.report
            result: dict[str, Any] = {"sigma": round(report.sigma, 1), "denoised": report.skipped is None}
            result |= {"skipped": report.skipped} if report.skipped else {}
            yield InferenceProgress(total, total)
            yield Inferred(restoration.output, rest, result)
            yield InferenceProgress(total, total)  # the result was sent completely

    async def check_health(self) -> None:
        """Denoise a small tile. Raises the error of the engine if the engine has failed before or fails now.

        Serve calls this method regularly. Serve replaces a replica that raises an error or does not answer.
        """
        if self._engine_failure is not None:
            raise self._engine_failure
        await self._batcher.check()


class DenoiserReplica(Denoiser):
    """The denoiser in a separate process that Serve creates."""

    def __init__(self, settings: Settings) -> None:
        logs.to_stderr()
        threads = settings.denoise_threads or len(os.sched_getaffinity(0))
        engine = load_engine(load_weights(settings), settings.denoise_device, threads)
        super().__init__(Batcher(engine), ByteSemaphore(_MAX_PICTURE_BYTES), settings.weights_sha256)
        log.info("denoiser up: engine=%s", engine.name)


def create(_: dict[str, str]) -> Application:
    """Read the settings from the environment, and build the application.

    Raises WeightsUnusable if the weights are not usable, so that the deployment fails before a replica starts.
    """
    settings = Settings()
    load_weights(settings)
    return ray_serve.deployment(DenoiserReplica, name="Denoiser").bind(settings)
