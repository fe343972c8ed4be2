"""The denoiser. This Serve deployment has no route: only dispatchers call it.

A replica loads two networks, one for photos and one for white noise. For each network, it has one engine for each
effort. Efforts with the same precision share one engine.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ray import serve as ray_serve
from ray.serve import Application
from ray.util.metrics import Counter, Gauge

from dag.messages import InferenceProgress, Inferred
from pixtools import logs, tracing
from pixtools.denoising.batcher import PROGRESS_INTERVAL_S, Batcher
from pixtools.denoising.byte_semaphore import ByteSemaphore
from pixtools.denoising.dncnn import load_white
from pixtools.denoising.engine import Effort, Engine, load_engines
from pixtools.denoising.restoration import Restoration
from pixtools.denoising.weight_source import load_weights
from pixtools.denoising.weights import WHITE_SHA256
from pixtools.errors import DenoiserDown, OutOfMemory
from pixtools.imaging.picture import Picture
from pixtools.operations.denoise import Denoise
from pixtools.settings import Settings

log = logging.getLogger(__name__)

_FIRST_SPEED = 1e6  # pixels per second, until the first picture is done

# The largest size of all pictures that run at one time. Their results take as many bytes again. Two passes take half as
# many in addition.
_MAX_PICTURE_BYTES = 400_000_000


class _Load:
    """The pictures in a replica, and the mean speed of the replica."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.pictures = 0
        self.pixels = 0
        self._clock = clock
        self._done = 0
        self._busy_s = 0.0
        self._since = 0.0  # when the first of the present pictures came

    def begin(self, pixels: int) -> None:
        """Add a picture."""
        if not self.pictures:
            self._since = self._clock()
        self.pictures += 1
        self.pixels += pixels

    def advance(self, pixels: int) -> None:
        """Record that `pixels` more pixels of a present picture are denoised."""
        self._done += pixels
        self.pixels -= pixels

    def end(self, left: int) -> None:
        """Remove a picture. `left` is the number of its pixels that are not denoised."""
        self.pictures -= 1
        self.pixels -= left
        if not self.pictures:
            self._busy_s += self._clock() - self._since

    @property
    def seconds(self) -> float:
        """Seconds until all present pictures are denoised, at the mean speed of the replica."""
        running_s = self._clock() - self._since if self.pictures else 0.0
        speed = self._done / (self._busy_s + running_s) if self._done else _FIRST_SPEED
        return self.pixels / speed


class Denoiser:
    """Denoises several pictures at a time, tile by tile."""

    def __init__(
        self, batcher: Batcher, semaphore: ByteSemaphore, engines: Mapping[tuple[str, Effort], Engine]
    ) -> None:
        """`semaphore` limits the total size of all pictures.

        `engines` are the loaded engines. A key has the digest of the weights, and the effort.
        """
        self._batcher = batcher
        self._semaphore = semaphore
        self._engines = dict(engines)
        self._engine_failure: Exception | None = None
        self._load = _Load()
        self._megapixels = Gauge(
            "pixtools_denoiser_megapixels", "Megapixels that wait at the denoiser or are denoised."
        )
        self._done = Counter("pixtools_denoised_megapixels_total", "Megapixels of finished pictures, denoised or not.")

    async def run(
        self, shared: tuple[Any, Picture], params: Denoise, weights: str, ids: Mapping[str, str] | None = None
    ) -> AsyncIterator[InferenceProgress | Inferred]:
        """Denoise a picture, and yield progress messages and the result. dag.messages gives the order of the messages.

        `shared` holds the two values of Picture.share. `weights` is the digest of the weights that the job asks for.
        The step key depends on this digest. `ids` are for log lines and traces; a dispatcher of an earlier version
        gives none. A message comes at least every ten seconds.

        Raises OutOfMemory, and DenoiserDown if another replica may succeed.
        """
        logs.begin(ids or {})
        effort: Effort = getattr(params, "effort", "normal")  # parameters from an earlier version have no effort
        # During a deployment, replicas with old weights and replicas with new weights run side by side.
        engine = self._engines.get((weights, effort))
        if engine is None:
            raise DenoiserDown("The replica has no engine for the weights and the effort of the job.")
        try:
            async for message in self._denoise(*shared, params, engine):
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
        self, pixels: Any, rest: Picture, params: Denoise, engine: Engine
    ) -> AsyncIterator[InferenceProgress | Inferred]:
        yield InferenceProgress(0, 1)
        parent, count = logs.ids().get("traceparent"), pixels.size // pixels.shape[-1]
        with self._counted(count) as advance, tracing.begin("denoise", parent, pixels=count):
            async for message in self._denoise_pixels(pixels, rest, params, engine, advance):
                yield message

    @contextmanager
    def _counted(self, pixels: int) -> Iterator[Callable[[float], None]]:
        """Count a picture during the block. Yield a function whose argument is the denoised fraction, from 0 to 1."""
        done = 0

        def advance(fraction: float) -> None:
            nonlocal done
            now = round(fraction * pixels)
            self._load.advance(now - done)
            done = now
            self._megapixels.set(self._load.pixels / 1e6)

        self._load.begin(pixels)
        advance(0)
        try:
            yield advance
            self._done.inc(pixels / 1e6)
        finally:
            self._load.end(pixels - done)
            self._megapixels.set(self._load.pixels / 1e6)

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Return the numbers for `serve.denoiser_scaling`. Serve calls this method regularly."""
        return {"backlog_s": self._load.seconds, "pictures": self._load.pictures}

    async def _denoise_pixels(
        self, pixels: Any, rest: Picture, params: Denoise, engine: Engine, advance: Callable[[float], None]
    ) -> AsyncIterator[InferenceProgress | Inferred]:
        async with self._semaphore.reserve(pixels.nbytes) as reservation:
            while not await reservation.granted_within(PROGRESS_INTERVAL_S):
                yield InferenceProgress(0, 1)
            # For a picture with alpha, Restoration computes the mean of all visible colours, which takes time. This
            # runs in a thread, so that the tiles of other pictures do not wait for it.
            restoration = await asyncio.to_thread(Restoration, pixels, params.blend, params.noise)
            async for done in self._batcher.restore(restoration, engine):
                advance(done / len(restoration))  # the fraction falls when tiles are added: see Restoration.rounds
                yield InferenceProgress(done, len(restoration) + 1)
            advance(1)  # a picture that stays as it is has no tiles
            total = len(restoration) + 1
            yield InferenceProgress(total, total)
            yield Inferred(restoration.output, rest, restoration.report.as_result())
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
        logs.to_stderr(settings.log_format)
        tracing.start(settings.traces_url, "denoiser")
        threads = settings.denoise_threads or len(os.sched_getaffinity(0))
        networks = {WHITE_SHA256: load_white(), settings.weights_sha256: load_weights(settings)}
        engines = {
            (digest, effort): engine
            for digest, network in networks.items()
            for effort, engine in load_engines(network, settings.denoise_device, threads).items()
        }
        default = engines[settings.weights_sha256, "normal"]
        super().__init__(Batcher(default), ByteSemaphore(_MAX_PICTURE_BYTES), engines)
        log.info("denoiser up: engine=%s", default.name)


def create(_: dict[str, str]) -> Application:
    """Read the settings from the environment, and build the application.

    Raises WeightsUnusable if the weights are not usable, so that the deployment fails before a replica starts.
    """
    settings = Settings()
    load_weights(settings)
    load_white()
    return ray_serve.deployment(DenoiserReplica, name="Denoiser").bind(settings)
