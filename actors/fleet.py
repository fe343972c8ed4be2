"""Puts the actors on the cluster, each with its name and its options: the one place where they are created."""

from __future__ import annotations

from functools import partial
from typing import Any

import ray

from actors.converter import Converter
from actors.dispatcher import Dispatcher
from actors.sweeper import Sweeper
from pixtools.settings import Settings

NAMESPACE = "pixtools"

# Coordinators wait for others most of the time. Asking for CPUs, they would wait for converters to give theirs up.
_COORDINATOR = {
    "num_cpus": 0,
    "max_restarts": -1,
    "lifetime": "detached",
    "namespace": NAMESPACE,
    "get_if_exists": True,
}


def launch(settings: Settings) -> None:
    """Create the dispatchers and the sweeper that are not there yet. Ray restarts them when they die."""
    maximum = settings.max_converters or max(1, int(ray.cluster_resources().get("CPU", 1)))
    for number in range(settings.dispatchers):
        name = dispatcher_name(number)
        ray.remote(Dispatcher).options(name=name, **_COORDINATOR).remote(
            name, settings, maximum, partial(create_converter, settings), ray.kill,
        )  # fmt: skip
    ray.remote(Sweeper).options(name="sweeper", **_COORDINATOR).remote(settings)


def dispatcher_name(number: int) -> str:
    return f"dispatcher-{number}"


def create_converter(settings: Settings) -> Any:
    """Return a new converter, owned by the calling actor: when that dies, so does the converter."""
    # No restart: its dispatcher sees the death, blames the step at work, and replaces it.
    options = {"num_cpus": 1, "max_restarts": 0, "scheduling_strategy": "SPREAD"}
    return ray.remote(Converter).options(**options).remote(settings)


async def facts(number: int) -> dict[str, Any]:
    """Ask a dispatcher for its facts; raises RayActorError or ValueError if it is not there."""
    dispatcher = ray.get_actor(dispatcher_name(number), namespace=NAMESPACE)
    answer: dict[str, Any] = await dispatcher.facts.remote()
    return answer
