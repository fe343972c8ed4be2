"""Puts the actors on the cluster, each with its name and its options: the one place that creates and finds them."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from itertools import count
from pathlib import Path
from typing import Any

import ray
from pydantic import SecretStr
from ray.exceptions import RayError, RayTaskError

from actors.converter import Converter
from actors.dead_letter_queue import DeadLetterQueue
from actors.dispatcher import Dispatcher
from actors.sweeper import Sweeper
from pixtools.database.dead_letter_store import Selection
from pixtools.errors import QueueDown
from pixtools.settings import Settings

log = logging.getLogger(__name__)

NAMESPACE = "pixtools"
_DISPATCHER, _SWEEPER, _QUEUE = "dispatcher-", "sweeper-", "dead-letters"
_PATIENCE_S = 5.0
_TO_MAKE_WAY_S = 120.0  # a busy machine takes its time to start an actor

# Coordinators wait for others most of the time. Asking for CPUs, they would wait for converters to give theirs up.
_COORDINATOR = {
    "num_cpus": 0,
    "max_restarts": -1,
    "lifetime": "detached",
    "namespace": NAMESPACE,
    "get_if_exists": True,
}


def launch(settings: Settings) -> None:
    """Create the actors that are not there yet; Ray restarts them when they die.

    Those of other code or other settings are replaced, for a detached actor would run the old code for ever:
    dispatchers finish what they have at hand or hand it back, the others hold nothing that is not written.
    """
    sweeper = f"{_SWEEPER}{_build(settings)}"
    for name in _running(_SWEEPER) - {sweeper}:
        _end(name)
    tend(settings)
    ray.remote(Sweeper).options(name=sweeper, **_COORDINATOR).remote(settings, partial(tend, settings))
    _launch_queue(settings)


def tend(settings: Settings) -> None:
    """See to it that our dispatchers are there and that all others retire; the sweeper does so again and again."""
    cpus = int(ray.cluster_resources().get("CPU", 1))
    maximum = settings.max_converters or max(1, cpus // settings.dispatchers)
    prefixes = _dispatchers(settings)
    for name in sorted(_running(_DISPATCHER)):
        if not name.startswith(prefixes):
            _retire(name, settings.drain.total_seconds())
    for prefix in prefixes:
        there = _running(prefix)
        if all(_is_retiring(name) for name in there):
            # A name of its own, for one that retires keeps its name until it has ended.
            name = next(name for number in count(1) if (name := f"{prefix}{number}") not in there)
            ray.remote(Dispatcher).options(name=name, **_COORDINATOR).remote(
                settings, maximum, partial(create_converter, settings), ray.kill,
            )  # fmt: skip


def drain(patience_s: float) -> list[str]:
    """Let every dispatcher finish or hand back what it has at hand; return those that have not ended even then."""
    for name in _running(_SWEEPER):  # it would start new ones
        _end(name)
    names = _running(_DISPATCHER)
    for name in names:
        _retire(name, patience_s)
    deadline = time.monotonic() + patience_s + _PATIENCE_S
    while (left := names & _running(_DISPATCHER)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return sorted(left)


def _launch_queue(settings: Settings) -> None:
    """Start the dead-letter queue under a name that does not change, so that scripts find it."""
    build = _build(settings)
    deadline = time.monotonic() + _TO_MAKE_WAY_S
    while True:
        queue = ray.remote(DeadLetterQueue).options(name=_QUEUE, **_COORDINATOR).remote(settings, build)
        try:
            if ray.get(queue.build.remote(), timeout=_TO_MAKE_WAY_S / 4) == build:
                return
            ray.kill(queue)
        except RayError as error:  # another replica was quicker to end the old one
            log.info("the dead-letter queue is not up yet: %s", error)
        if time.monotonic() > deadline:
            raise RuntimeError("The dead-letter queue of an older version does not make way.")
        time.sleep(0.2)


def _build(settings: Settings) -> str:
    """Return a digest of the code and the settings that an actor started here would run with."""
    secrets_too = [value.get_secret_value() if isinstance(value, SecretStr) else str(value) for _, value in settings]
    return hashlib.sha256("\0".join([_code(), *secrets_too]).encode()).hexdigest()[:8]


@cache
def _code() -> str:
    root = Path(__file__).parent.parent
    files = sorted(path for package in ("actors", "dag", "pixtools") for path in (root / package).rglob("*.py"))
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()


def _dispatchers(settings: Settings) -> tuple[str, ...]:
    """Return what the names of our dispatchers begin with; a number follows."""
    return tuple(f"{_DISPATCHER}{number}-{_build(settings)}-" for number in range(settings.dispatchers))


def _running(*prefixes: str) -> set[str]:
    """Return the names of our actors of these kinds, whichever version started them."""
    found = ray.util.list_named_actors(all_namespaces=True)
    return {actor["name"] for actor in found if actor["namespace"] == NAMESPACE and actor["name"].startswith(prefixes)}


def _is_retiring(name: str) -> bool:
    """Ask a dispatcher; one that does not answer in time is busy or starts anew, and stays."""
    try:
        dispatcher = ray.get_actor(name, namespace=NAMESPACE)
        return bool(ray.get(dispatcher.facts.remote(), timeout=_PATIENCE_S)["retiring"])
    except ValueError:  # gone meanwhile
        return True
    except RayError:
        return False


def _retire(name: str, patience_s: float) -> None:
    with suppress(ValueError):
        dispatcher = ray.get_actor(name, namespace=NAMESPACE)
        if hasattr(dispatcher, "retire"):
            dispatcher.retire.remote(patience_s)
        else:  # of version 0001 of the records, which knew no better; the sweeper puts back what it held
            ray.kill(dispatcher)


def _end(name: str) -> None:
    with suppress(ValueError):
        ray.kill(ray.get_actor(name, namespace=NAMESPACE))


def create_converter(settings: Settings) -> Any:
    """Return a new converter, owned by the calling actor: when that dies, so does the converter."""
    # No restart: its dispatcher sees the death, blames the step at work, and replaces it.
    options = {"num_cpus": 1, "max_restarts": 0, "scheduling_strategy": "SPREAD"}
    return ray.remote(Converter).options(**options).remote(settings)


async def facts(settings: Settings) -> list[dict[str, Any] | None]:
    """Ask the dispatchers for their facts; None for one that does not answer."""
    names = await asyncio.to_thread(_running, *_dispatchers(settings))
    return list(await asyncio.gather(*map(_facts, sorted(names))))


async def _facts(name: str) -> dict[str, Any] | None:
    try:
        async with asyncio.timeout(_PATIENCE_S):
            dispatcher = await asyncio.to_thread(ray.get_actor, name, namespace=NAMESPACE)
            answer: dict[str, Any] = await dispatcher.facts.remote()
    except (RayError, ValueError, TimeoutError):
        return None
    return answer


async def redrive(owner: str, selection: Selection) -> int:
    """Ask the dead-letter queue to redrive; raises QueueDown, and what its store raises."""
    return await _ask_queue(lambda queue: queue.redrive.remote(owner, selection))


async def retry(owner: str, job_id: uuid.UUID) -> int:
    """Ask the dead-letter queue to redrive all of a job at once; raises QueueDown."""
    return await _ask_queue(lambda queue: queue.retry.remote(owner, job_id))


async def discard(owner: str, selection: Selection) -> int:
    """Ask the dead-letter queue to discard; raises QueueDown, and what its store raises."""
    return await _ask_queue(lambda queue: queue.discard.remote(owner, selection))


async def _ask_queue(call: Callable[[Any], Any]) -> int:
    try:
        async with asyncio.timeout(_PATIENCE_S * 2):  # long enough for a restart
            queue = await asyncio.to_thread(ray.get_actor, _QUEUE, namespace=NAMESPACE)
            number: int = await call(queue)
    except RayTaskError as error:
        raise error.cause from error
    except (RayError, ValueError, TimeoutError) as error:
        raise QueueDown("Ask again in a moment.") from error
    return number
