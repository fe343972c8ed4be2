"""Puts the actors on the cluster, each with its name and its options: the one place where they are created."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from typing import Any

import ray
from pydantic import SecretStr
from ray.exceptions import RayError

from actors.converter import Converter
from actors.dispatcher import Dispatcher
from actors.sweeper import Sweeper
from pixtools.settings import Settings

NAMESPACE = "pixtools"
_PATIENCE_S = 5.0

# Coordinators wait for others most of the time. Asking for CPUs, they would wait for converters to give theirs up.
_COORDINATOR = {
    "num_cpus": 0,
    "max_restarts": -1,
    "lifetime": "detached",
    "namespace": NAMESPACE,
    "get_if_exists": True,
}


def launch(settings: Settings) -> None:
    """Create the dispatchers and the sweeper that are not there yet; Ray restarts them when they die.

    Those of another version or other settings are ended: a detached actor would run the old code for ever. The
    sweeper puts back what they held.
    """
    cpus = int(ray.cluster_resources().get("CPU", 1))
    maximum = settings.max_converters or max(1, cpus // settings.dispatchers)
    dispatchers, sweeper = _names(settings)
    _end_all_but({*dispatchers, sweeper})
    for name in dispatchers:
        ray.remote(Dispatcher).options(name=name, **_COORDINATOR).remote(
            settings, maximum, partial(create_converter, settings), ray.kill,
        )  # fmt: skip
    ray.remote(Sweeper).options(name=sweeper, **_COORDINATOR).remote(settings)


def _names(settings: Settings) -> tuple[list[str], str]:
    secrets_too = [value.get_secret_value() if isinstance(value, SecretStr) else str(value) for _, value in settings]
    build = hashlib.sha256("\0".join([version("pixtools"), *secrets_too]).encode()).hexdigest()[:8]
    return [f"dispatcher-{number}-{build}" for number in range(settings.dispatchers)], f"sweeper-{build}"


def _end_all_but(names: set[str]) -> None:
    for actor in ray.util.list_named_actors(all_namespaces=True):
        if actor["namespace"] == NAMESPACE and actor["name"] not in names:
            with suppress(ValueError):  # gone meanwhile
                ray.kill(ray.get_actor(actor["name"], namespace=NAMESPACE))


def create_converter(settings: Settings) -> Any:
    """Return a new converter, owned by the calling actor: when that dies, so does the converter."""
    # No restart: its dispatcher sees the death, blames the step at work, and replaces it.
    options = {"num_cpus": 1, "max_restarts": 0, "scheduling_strategy": "SPREAD"}
    return ray.remote(Converter).options(**options).remote(settings, ray.put)


async def facts(settings: Settings) -> list[dict[str, Any] | None]:
    """Ask the dispatchers for their facts; None for one that does not answer."""
    return list(await asyncio.gather(*map(_facts, _names(settings)[0])))


async def _facts(name: str) -> dict[str, Any] | None:
    try:
        async with asyncio.timeout(_PATIENCE_S):
            dispatcher = await asyncio.to_thread(ray.get_actor, name, namespace=NAMESPACE)
            answer: dict[str, Any] = await dispatcher.facts.remote()
    except (RayError, ValueError, TimeoutError):
        return None
    return answer
