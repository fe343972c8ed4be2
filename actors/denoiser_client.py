"""Sends pictures from a dispatcher to denoiser replicas. Ray Serve scales and replaces the replicas."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any, cast

from ray.exceptions import ObjectLostError, OwnerDiedError, RayError, RayTaskError

from dag.messages import InferenceProgress
from dag.reference_stream import next_reference
from pixtools import logs
from pixtools.errors import DenoiserBusy, DenoiserDown, PixToolsError
from pixtools.operations.base.params import Params
from pixtools.operations.denoise import DENOISE, Denoise
from pixtools.retries import DENOISER_PAUSES_S
from pixtools.settings import Settings

log = logging.getLogger(__name__)

APPLICATION, DEPLOYMENT = "denoiser", "Denoiser"  # as in serve_config.yaml

_SILENCE_TIMEOUT_S = 60.0  # a replica that works sends a message at least every ten seconds
_STATUS_INTERVAL_S = 15.0  # between two checks of the status of the deployment
_FAILED_STATUSES = 3  # checks in a row, because one killed replica makes the deployment unhealthy for a moment


class DenoiserClient:
    """Runs inferences at the denoiser, and counts the jobs that have a picture at the denoiser.

    Pictures stay in Ray's shared memory. If a replica dies, the client sends the picture to another replica.
    """

    def __init__(self, settings: Settings, on_offload: Callable[[], None]) -> None:
        """`on_offload` is called before a picture is sent. The job then needs no converter for a while."""
        self._weights = settings.weights_sha256
        self._start_timeout_s = settings.denoise_start_timeout.total_seconds()
        self._on_offload = on_offload
        self._pictures: Counter[Hashable] = Counter()
        self._handle: Any = None

    @property
    def jobs(self) -> int:
        """The number of jobs that have pictures at the denoiser."""
        return len(self._pictures)

    def of(self, job: Hashable) -> JobDenoiser:
        """Return the denoiser for the graph of one job."""
        return JobDenoiser(self, job)

    async def run(self, job: Hashable, pixels: Any, params: Denoise) -> Any:
        """Denoise a picture of a job: see dag.graph.Denoiser."""
        self._pictures[job] += 1
        self._on_offload()
        try:
            return await self._run_with_retries(pixels, params)
        finally:
            self._pictures[job] -= 1
            self._pictures += Counter()  # this addition removes the jobs whose count is 0

    async def _run_with_retries(self, pixels: Any, params: Denoise) -> Any:
        """Send a picture to a replica. If the replica fails or dies, send the picture again after a pause."""
        for pause_s in (0.0, *DENOISER_PAUSES_S):
            await asyncio.sleep(pause_s)
            try:
                return await self._run_once(pixels, params)
            except RayTaskError as error:
                failure = _replica_error(error)
                if not isinstance(failure, DenoiserDown):
                    raise failure from error
            except (ObjectLostError, OwnerDiedError):  # the picture itself is lost, so it cannot be sent again
                raise
            except (RayError, StopAsyncIteration, TimeoutError) as error:
                failure = error
            log.warning("denoiser lost: error=%r", failure)
        tries = len(DENOISER_PAUSES_S) + 1
        raise DenoiserDown(f"{tries} tries to denoise the picture failed. Each time, the replica failed or died.")

    async def _run_once(self, pixels: Any, params: Denoise) -> Any:
        from ray.serve.exceptions import BackPressureError, RayServeException  # noqa: PLC0415 (see _connect)

        response = (await self._connect()).run.remote(
            pixels, params, DENOISE.weights(params, self._weights), dict(logs.ids())
        )
        try:
            return await _wait_for_result(await self._wait_for_start(response))
        except BackPressureError as error:
            raise DenoiserBusy("The step is tried again automatically.") from error
        except RayServeException as error:
            raise DenoiserDown(f"Ray Serve says: {error}") from error
        except BaseException:
            response.cancel()  # nobody needs the result any more
            raise

    async def _wait_for_start(self, response: Any) -> Any:
        """Wait for the first progress message of a replica, and return the stream of this replica.

        Raises DenoiserBusy if the replicas are busy for too long. Raises DenoiserDown if the deployment fails, or if no
        replica starts in time.
        """
        starting = asyncio.create_task(_first_message(response))
        failing = asyncio.create_task(_wait_for_failed_deployment())
        try:
            await asyncio.wait((starting, failing), timeout=self._start_timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                return starting.result()
            if not failing.done() and await _has_replicas():
                raise DenoiserBusy("The step is tried again automatically.")
            reason = failing.result() if failing.done() else f"No replica began in {self._start_timeout_s:g} seconds."
            raise DenoiserDown(
                f"{reason} Look at the application `{APPLICATION}` in Ray's dashboard. Perhaps no node has the "
                "resources that its replicas need, or the replicas fail when they start."
            )
        finally:
            starting.cancel()
            failing.cancel()

    async def _connect(self) -> Any:
        """Return the handle of the deployment. Raises DenoiserDown if the denoiser is not deployed."""
        if self._handle is None:
            # Importing Serve takes memory and about a second, so a dispatcher imports Serve only when it denoises.
            from ray import serve as ray_serve  # noqa: PLC0415

            try:
                handle = await asyncio.to_thread(ray_serve.get_deployment_handle, DEPLOYMENT, APPLICATION)
            except (KeyError, RayError, ray_serve.exceptions.RayServeException) as error:
                raise DenoiserDown(f"The application `{APPLICATION}` in serve_config.yaml is not deployed.") from error
            # Pixels are too large to be sent by value. Send references to them, even if Serve is configured otherwise.
            self._handle = handle.options(stream=True, _by_reference=True)
        return self._handle


class JobDenoiser:
    """The denoiser for the graph of one job. Implements dag.graph.Denoiser."""

    def __init__(self, client: DenoiserClient, job: Hashable) -> None:
        self._client, self._job = client, job

    async def run(self, pixels: Any, params: Params) -> Any:
        """Denoise a picture: see dag.graph.Denoiser."""
        return await self._client.run(self._job, pixels, cast("Denoise", params))  # `denoise` is the only inference


async def _first_message(response: Any) -> Any:
    """Wait for the first progress message of a replica, and return the rest of the stream."""
    stream = await response._to_object_ref_gen()  # noqa: SLF001 (Serve's way to pass on pixels by reference)
    await (await anext(stream))
    return stream


async def _wait_for_result(stream: Any) -> Any:
    """Wait for the complete result, and return its ObjectRef. Raises TimeoutError if a message takes too long."""
    progress = InferenceProgress(0, 1)
    while progress.done < progress.total:
        async with asyncio.timeout(_SILENCE_TIMEOUT_S):
            progress = await (await anext(stream))
    async with asyncio.timeout(_SILENCE_TIMEOUT_S):
        result = await next_reference(stream)
        await (await anext(stream))  # this last message proves that the replica has stored the result
    return result


async def _application() -> Any:
    """Return the status of the denoiser's application in Serve, or None if the status is not known."""
    from ray import serve as ray_serve  # noqa: PLC0415 (see _connect)

    try:
        return (await asyncio.to_thread(ray_serve.status)).applications.get(APPLICATION)
    except (RayError, ray_serve.exceptions.RayServeException) as error:
        log.warning("no status from serve: error=%r", error)
        return None


async def _has_replicas() -> bool:
    application = await _application()
    return application is not None and application.deployments[DEPLOYMENT].replica_states.get("RUNNING", 0) > 0


async def _wait_for_failed_deployment() -> str:
    """Wait until several checks in a row find a failed or unhealthy deployment, and return Serve's message."""
    failures = 0
    while failures < _FAILED_STATUSES:
        await asyncio.sleep(_STATUS_INTERVAL_S)
        application = await _application()
        failed = application is None or application.status in ("DEPLOY_FAILED", "UNHEALTHY")
        failures = failures + 1 if failed else 0
    return str(application.deployments[DEPLOYMENT].message) if application else "Serve does not know the application."


def _replica_error(error: RayTaskError) -> Exception:
    """Return the error that a replica raised. Log an unexpected error, and return PixToolsError instead."""
    cause = error.cause
    if isinstance(cause, PixToolsError | RayError):  # RayError: the picture was lost on its way to the replica
        return cause
    if isinstance(cause, TypeError):  # the replica runs an earlier version, and Serve is about to replace the replica
        log.warning("denoiser runs other code: error=%r", cause)
        return DenoiserDown("The replica runs another version of the code.")
    log.error("denoiser failed unexpectedly", exc_info=error)
    return PixToolsError()
