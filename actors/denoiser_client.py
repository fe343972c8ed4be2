"""The way from a dispatcher to the replicas of the denoiser, which Serve scales and replaces."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any

from ray.exceptions import ObjectLostError, OwnerDiedError, RayError, RayTaskError

from dag.segments import Progress
from pixtools.errors import DenoiserBusy, DenoiserDown, PixToolsError
from pixtools.operations.base.kinds import Params
from pixtools.settings import Settings

log = logging.getLogger(__name__)

APPLICATION, DEPLOYMENT = "denoiser", "Denoiser"  # as in serve_config.yaml

# Between tries of one picture at replicas that fail or die, for nothing that is in a picture makes them: long enough
# in all for Serve to replace one that fails its checks.
_PAUSES_S = (1.0, 3.0, 10.0, 30.0, 30.0)
_MUTE_S = 60.0  # a replica says a word every ten seconds
_LOOK_S, _FAILURES = 15.0, 3  # a replica that was killed makes it unhealthy for a moment


class Denoisers:
    """Knows which jobs have a picture at a denoiser: meanwhile they keep no converter from others."""

    def __init__(self, settings: Settings, on_leave: Callable[[], None]) -> None:
        """`on_leave` is called when a job's picture has left for a denoiser."""
        self._weights = settings.weights_sha256
        self._patience_s = settings.denoise_patience.total_seconds()
        self._on_leave = on_leave
        self._pictures: Counter[Hashable] = Counter()
        self._handle: Any = None

    @property
    def jobs(self) -> int:
        """How many jobs have pictures at a denoiser."""
        return len(self._pictures)

    def of(self, job: Hashable) -> _OfJob:
        """Return the way for the pictures of one job."""
        return _OfJob(self, job)

    async def run(self, job: Hashable, pixels: Any, params: Params) -> Any:
        """Have a picture denoised: see dag.graph.Denoiser."""
        self._pictures[job] += 1
        self._on_leave()
        try:
            return await self._insist(pixels, params)
        finally:
            self._pictures[job] -= 1
            self._pictures += Counter()  # which drops those at 0

    async def _insist(self, pixels: Any, params: Params) -> Any:
        for pause_s in _PAUSES_S:
            try:
                return await self._try(pixels, params)
            except RayTaskError as error:
                failure = _told(error)
                if not isinstance(failure, DenoiserDown):
                    raise failure from error
            except (ObjectLostError, OwnerDiedError):  # the picture itself
                raise
            except (RayError, StopAsyncIteration, TimeoutError) as error:
                failure = error
            log.warning("denoiser lost: error=%r", failure)
            await asyncio.sleep(pause_s)
        raise DenoiserDown(f"{len(_PAUSES_S)} times one failed or died while it had the picture.")

    async def _try(self, pixels: Any, params: Params) -> Any:
        from ray.serve.exceptions import BackPressureError, RayServeException  # noqa: PLC0415 (see _connect)

        response = (await self._connect()).run.remote(pixels, params, self._weights)
        try:
            return await self._follow(await self._begin(response))
        except BackPressureError as error:
            raise DenoiserBusy("It is tried again by itself.") from error
        except RayServeException as error:
            raise DenoiserDown(f"Ray Serve says: {error}") from error
        except BaseException:
            response.cancel()  # nobody waits for it any longer
            raise

    async def _begin(self, response: Any) -> Any:
        """Wait until a replica has the picture, which it says by a first word; return its stream."""

        async def begin() -> Any:
            stream = await response._to_object_ref_gen()  # noqa: SLF001 (Serve's way to pass on pixels by reference)
            await (await anext(stream))
            return stream

        beginning = asyncio.create_task(begin())
        watching = asyncio.create_task(_until_it_fails())
        try:
            await asyncio.wait((beginning, watching), timeout=self._patience_s, return_when=asyncio.FIRST_COMPLETED)
            if beginning.done():
                return beginning.result()
            if not watching.done() and await _has_replicas():
                raise DenoiserBusy("It is tried again by itself.")
            said = watching.result() if watching.done() else f"None began within {self._patience_s:g} seconds."
            raise DenoiserDown(
                f"{said} Look at the application `{APPLICATION}` in Ray's dashboard: its replicas may find no node "
                "with what they ask for, or fail as they start."
            )
        finally:
            beginning.cancel()
            watching.cancel()

    async def _follow(self, stream: Any) -> Any:
        """Return the reference to what was made, once it is made; raises TimeoutError for a replica that is mute."""
        progress = Progress(0, 1)
        while progress.done < progress.total:
            async with asyncio.timeout(_MUTE_S):
                progress = await (await anext(stream))
        async with asyncio.timeout(_MUTE_S):
            made = await anext(stream)
            await (await anext(stream))  # else it died with what it had made
        return made

    async def _connect(self) -> Any:
        if self._handle is None:
            # Serve's client takes memory and a second, which a dispatcher that never denoises saves.
            from ray import serve as ray_serve  # noqa: PLC0415

            try:
                handle = await asyncio.to_thread(ray_serve.get_deployment_handle, DEPLOYMENT, APPLICATION)
            except (KeyError, RayError, ray_serve.exceptions.RayServeException) as error:
                raise DenoiserDown(f"The application `{APPLICATION}` of serve_config.yaml is not deployed.") from error
            # By reference, also where Serve is set up to send all else by value: pixels are too large for that.
            self._handle = handle.options(stream=True, _by_reference=True)
        return self._handle


async def _application() -> Any:
    """Return what Serve says of the denoiser, or None."""
    from ray import serve as ray_serve  # noqa: PLC0415 (see _connect)

    try:
        return (await asyncio.to_thread(ray_serve.status)).applications.get(APPLICATION)
    except (RayError, ray_serve.exceptions.RayServeException) as error:
        log.warning("serve says nothing: error=%r", error)
        return None


async def _has_replicas() -> bool:
    application = await _application()
    return application is not None and application.deployments[DEPLOYMENT].replica_states.get("RUNNING", 0) > 0


async def _until_it_fails() -> str:
    """Return what Serve says of replicas that do not come up, or do not stay up: else one would wait in vain."""
    failures = 0
    while failures < _FAILURES:
        await asyncio.sleep(_LOOK_S)
        application = await _application()
        failed = application is None or application.status in ("DEPLOY_FAILED", "UNHEALTHY")
        failures = failures + 1 if failed else 0
    return str(application.deployments[DEPLOYMENT].message) if application else "Serve knows of none."


class _OfJob:
    def __init__(self, denoisers: Denoisers, job: Hashable) -> None:
        self._denoisers, self._job = denoisers, job

    async def run(self, pixels: Any, params: Params) -> Any:
        return await self._denoisers.run(self._job, pixels, params)


def _told(error: RayTaskError) -> Exception:
    """Return what a replica raised; what it did not expect is logged here and told to nobody."""
    cause = error.cause
    if isinstance(cause, PixToolsError | RayError):  # the latter: the picture was lost on its way
        return cause
    log.error("denoiser failed unexpectedly", exc_info=error)
    return PixToolsError()
