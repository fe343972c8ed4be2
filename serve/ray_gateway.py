"""The named actor through which clients of Ray reach the ingress.

Handles of Serve do not work well in Ray Client. So this actor holds the handle, and clients call the actor. A client
creates the actor if there is none. The actor ends after ten idle minutes.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, RayServeException

from actors.placement import COORDINATOR

_APPLICATION = "pixtools"  # as in serve_config.yaml
_NAME = "gateway"

_IDLE_S = 600.0
_TIMEOUT_S = 175.0  # of a request; less than the timeout of the client
_MAX_AT_ONCE = 64
_RETRY_LATER = [("Retry-After", "1")]

_Answer = tuple[int, list[tuple[str, str]], bytes]  # status, headers and body


class Gateway:
    """Passes requests on to the ingress."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._open = 0
        self._used_at = time.monotonic()
        self._is_broken = False
        self._ending = asyncio.create_task(self._end_when_idle())

    async def request(self, method: str, url: str, headers: list[tuple[str, str]], body: list[Any]) -> _Answer:
        """Call Ingress.request. If too many requests wait for the ingress, the answer has the status 503.

        Raises TimeoutError after three minutes, RayServeException if the ingress is not deployed, and RayError.
        """
        self._open += 1
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                if self._handle is None:
                    handle = await asyncio.to_thread(serve.get_app_handle, _APPLICATION)
                    # Without `_by_reference`, calls may go through gRPC, which limits an answer to 4 MiB.
                    self._handle = handle.options(_by_reference=True)
                answer: _Answer = await self._handle.request.remote(method, url, headers, body)
        except BackPressureError:
            return 503, _RETRY_LATER, b""
        except (TimeoutError, RayServeException, RayActorError):
            # Perhaps Serve was shut down and started again. Then the old handle never finds the new ingress.
            self._is_broken = True
            raise
        finally:
            self._open -= 1
            self._used_at = time.monotonic()
            if self._is_broken and not self._open:
                _end_this_actor()
        return answer

    async def _end_when_idle(self) -> None:
        while True:
            await asyncio.sleep(_IDLE_S / 10)
            if not self._open and time.monotonic() > self._used_at + _IDLE_S:
                _end_this_actor()


def _end_this_actor() -> None:
    """End this process. The next client creates another gateway."""
    ray.kill(ray.get_runtime_context().current_actor)


def open_gateway() -> Any:
    """Return the gateway of the present cluster. Create it if there is none. This process must be connected."""
    return ray.remote(Gateway).options(name=_NAME, max_concurrency=_MAX_AT_ONCE, **COORDINATOR).remote()
