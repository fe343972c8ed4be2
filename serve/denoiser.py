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
from pixtools.denoising.batcher import Batcher
from pixtools.denoising.engine import load_engine
from pixtools.denoising.restoration import Restoration
from pixtools.denoising.weights import obtain
from pixtools.imaging.picture import Picture
from pixtools.operations.denoise import Denoise
from pixtools.settings import Settings

log = logging.getLogger(__name__)


class Denoiser:
    """Denoises many pictures at a time, tile by tile."""

    def __init__(self, settings: Settings) -> None:
        logs.to_stderr()
        engine = load_engine(
            obtain(settings), settings.denoise_device, settings.denoise_threads or len(os.sched_getaffinity(0))
        )
        self._batcher = Batcher(engine)
        log.info("denoiser up: engine=%s", engine.name)

    async def run(self, shared: tuple[Any, Picture], params: Denoise) -> AsyncIterator[Progress | Inferred]:
        """Denoise a picture, both parts of Picture.share, and say how far it is: see actors.denoisers."""
        pixels, rest = shared
        yield Progress(0, 1)
        # The noise is estimated in this thread's stead: other pictures go on meanwhile.
        restoration = await asyncio.to_thread(Restoration, pixels, params.strength, params.noise)
        total = len(restoration) + 1
        async for done in self._batcher.restore(restoration):
            yield Progress(done, total)
        yield Progress(total, total)
        report = restoration.report
        facts = {"sigma": round(report.sigma, 1), "denoised": report.skipped is None}
        yield Inferred(restoration.output, rest, facts | ({"skipped": report.skipped} if report.skipped else {}))

    async def check_health(self) -> None:
        """Run a tile: Serve replaces a replica whose engine fails or hangs."""
        await self._batcher.check()


def create(_: dict[str, str]) -> Application:
    """Build the application from the environment; raises WeightsUnusable, so that a deployment fails at once."""
    settings = Settings()
    obtain(settings)
    return ray_serve.deployment(Denoiser).bind(settings)
