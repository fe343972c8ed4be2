"""Creates and finds the actors of the cluster. Decides their names and options, and builds them from the settings."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache, partial
from itertools import count
from pathlib import Path
from typing import Any

import ray
from pydantic import SecretStr
from ray.exceptions import RayError, RayTaskError

from actors.converter import Converter
from actors.converter_pool import Capacity, ConverterPool
from actors.courier import MAX_AT_ONCE, Courier
from actors.dead_letter_queue import DeadLetterQueue
from actors.denoiser_client import DenoiserClient
from actors.dispatcher import Dispatcher
from actors.placement import COORDINATOR, HEAD, NAMESPACE
from actors.sweeper import Sweeper
from actors.webhook_bodies import WebhookBodies
from dag.messages import WorkItem
from pixtools import logs, tracing
from pixtools.blob_store import BlobStore
from pixtools.database.connection import Database
from pixtools.database.dead_letter_store import DeadLetterStore
from pixtools.database.delivery_store import DeliveryStore
from pixtools.database.endpoint_store import EndpointStore
from pixtools.database.job_store import JobStore
from pixtools.database.reconciler import Reconciler
from pixtools.database.retention_store import RetentionStore
from pixtools.errors import QueueDown
from pixtools.jobs.dead_letters import DeadLetterSelection
from pixtools.outbound.addresses import AddressPolicy
from pixtools.outbound.client import OutboundClient
from pixtools.redis.circuits import Circuits
from pixtools.redis.hints import Hints
from pixtools.retries import QUEUE_ANSWER_TIMEOUT_S, QUEUE_REPLACEMENT_PAUSE_S, QUEUE_REPLACEMENT_TIMEOUT_S
from pixtools.sandbox.process import ChildDied
from pixtools.settings import Settings
from pixtools.webhooks.vault import Vault

log = logging.getLogger(__name__)

_DISPATCHER, _COURIER, _SWEEPER, _QUEUE = "dispatcher-", "courier-", "sweeper-", "dead-letters"
_ANSWER_TIMEOUT_S = 5.0
_PREEMPTION = 2  # DRAIN_NODE_REASON_PREEMPTION of Ray
_RESTART_TIMEOUT_S = 10.0  # a restarting actor answers within this time

_ACTOR_CODE = ("actors", "dag", "pixtools")
_OTHER_CODE = ("pixtools/training", "pixtools/local")  # no actor runs this code

# The classes from which Ray creates actors. When Ray restarts an actor, Ray calls the constructor again. So the
# constructor builds everything from the settings and schedules `start`.


class DispatcherActor(Dispatcher):
    """A dispatcher in a separate process."""

    def __init__(self, settings: Settings) -> None:
        logs.to_stderr(settings.log_format)
        tracing.start(settings.traces_url, "dispatcher")
        capacity = partial(_capacity, settings)
        # An actor keeps its id after a restart. No other actor of any cluster has this id.
        name = ray.get_runtime_context().get_actor_id()
        wake = asyncio.Event()
        super().__init__(
            name,
            settings,
            store=JobStore(Database(settings, name=name), settings),
            hints=Hints(settings),
            pool=ConverterPool(
                partial(create_converter, settings),
                ray.kill,
                minimum=settings.min_converters,
                maximum=capacity().max_converters,
                idle_s=settings.converter_idle.total_seconds(),
                limit_bytes=settings.converter_memory_bytes,
            ),
            capacity=capacity,
            denoiser=DenoiserClient(settings, wake.set),
            wake=wake,
            destroy_self=_destroy_current_actor,
        )
        self._starting = asyncio.create_task(self.start())


class SweeperActor(Sweeper):
    """The sweeper in a separate process."""

    def __init__(self, settings: Settings) -> None:
        logs.to_stderr(settings.log_format)
        _own_code()  # remember the digest now, because the files on disk may change while this process runs
        database = Database(settings, pool_size=2, name="sweeper")
        super().__init__(
            settings,
            store=JobStore(database, settings),
            reconciler=Reconciler(settings, RetentionStore(database), BlobStore(settings)),
            hints=Hints(settings),
            ping=database.ping,
            ensure_dispatchers=partial(ensure_dispatchers, settings),
            has_webhooks=DeliveryStore(database).is_used,
            ensure_couriers=partial(ensure_couriers, settings),
        )
        self._starting = asyncio.create_task(self.start())


class CourierActor(Courier):
    """A courier in a separate process."""

    def __init__(self, settings: Settings) -> None:
        logs.to_stderr(settings.log_format)
        name = ray.get_runtime_context().get_actor_id()  # stays the same after a restart
        database = Database(settings, pool_size=5, name="courier")
        super().__init__(
            name,
            settings,
            store=DeliveryStore(database),
            bodies=WebhookBodies(
                JobStore(database, settings), EndpointStore(database), BlobStore(settings), Vault(settings.webhook_keys)
            ),
            circuits=Circuits(settings),
            hints=Hints(settings),
            client=OutboundClient(
                AddressPolicy(allow_private=settings.allow_private_webhooks), max_connections=MAX_AT_ONCE
            ),
            destroy_self=_destroy_current_actor,
        )
        self._starting = asyncio.create_task(self.start())


class DeadLetterQueueActor(DeadLetterQueue):
    """The dead-letter queue in a separate process."""

    def __init__(self, settings: Settings, build: str) -> None:
        logs.to_stderr(settings.log_format)
        store = DeadLetterStore(Database(settings, pool_size=2, name="dead-letter-queue"))
        super().__init__(settings, build, store=store, hints=Hints(settings))
        self._starting = asyncio.create_task(self.start())


class ConverterActor(Converter):
    """A converter in a separate process."""

    def __init__(self, settings: Settings, dispatcher: str = "") -> None:
        super().__init__(settings, node=ray.get_runtime_context().get_node_id())
        self._dispatcher = dispatcher

    def __repr__(self) -> str:
        """Return the name of this converter in Ray's dashboard."""
        return f"converter of {self._dispatcher}"

    def run(self, work_item: WorkItem, pixels: Any = None) -> Iterator[Any]:
        """Call Converter.run. If the worker dies, end this process, so that the dispatcher counts a crash."""
        try:
            yield from super().run(work_item, pixels)
        except ChildDied as error:
            log.error("converter ends: %s", error)  # noqa: TRY400 (the traceback says nothing about the worker)
            os._exit(1)


def create_converter(settings: Settings) -> Any:
    """Return a new converter. The calling actor owns the converter. If the owner dies, the converter ends."""
    # Ray never restarts a converter. The dispatcher notices that a converter has died, counts a crash of the running
    # step, and replaces the converter.
    options = {"num_cpus": 1, "max_restarts": 0, "scheduling_strategy": "SPREAD"}
    name = ray.get_runtime_context().get_actor_name() or ""  # None in a driver
    return ray.remote(ConverterActor).options(**options).remote(settings, name)


def launch(settings: Settings) -> None:
    """Create missing actors, and replace actors that run other code or other settings.

    Actors are detached, so an old actor would run the old code forever. Old dispatchers finish their jobs or return
    them to the queue. The sweeper and the dead-letter queue can end at any moment, because all their data is in the
    database.

    Raises RuntimeError if an old dead-letter queue cannot be replaced.
    """
    sweeper = f"{_SWEEPER}{_build(settings)}"
    for name in _running(_SWEEPER) - {sweeper}:
        _kill(name)
    ensure_dispatchers(settings)
    _retire_others(_COURIER, _names(_COURIER, settings.couriers, settings), settings)
    ray.remote(SweeperActor).options(name=sweeper, **COORDINATOR).remote(settings)
    _launch_queue(settings)


def ensure_dispatchers(settings: Settings) -> None:
    """Start the missing dispatchers of this build, and retire the dispatchers of all other builds.

    The sweeper calls this function every minute, so a dispatcher that has ended is replaced.
    """
    prefixes = _names(_DISPATCHER, settings.dispatchers, settings)
    _retire_others(_DISPATCHER, prefixes, settings)
    _create_missing(prefixes, ray.remote(DispatcherActor), settings)


def ensure_couriers(settings: Settings) -> None:
    """Start the missing couriers of this build, and retire the couriers of all other builds.

    The sweeper calls this function when there is something for couriers to do, and then every minute. So a service
    without webhooks does not spend memory on a courier.
    """
    prefixes = _names(_COURIER, settings.couriers, settings)
    _retire_others(_COURIER, prefixes, settings)
    _create_missing(prefixes, ray.remote(CourierActor), settings)


def _retire_others(kind: str, prefixes: tuple[str, ...], settings: Settings) -> None:
    """Retire the actors of a kind whose names do not begin with one of `prefixes`: those of other builds."""
    for name in sorted(_running(kind)):
        if not name.startswith(prefixes):
            _retire(name, settings.drain_timeout.total_seconds())


def _create_missing(prefixes: tuple[str, ...], actor: Any, *arguments: Any) -> None:
    """Create an actor for each prefix, unless an actor with this prefix runs and is not retiring."""
    for prefix in prefixes:
        names = _running(prefix)
        if all(_is_retiring(name) for name in names):
            # Use a new name, because a retiring actor keeps its name until it has ended.
            name = next(name for number in count(1) if (name := f"{prefix}{number}") not in names)
            actor.options(name=name, **COORDINATOR).remote(*arguments)


def drain(timeout_s: float) -> list[str]:
    """Retire all dispatchers and couriers. Return the names of those that still run after `timeout_s` seconds."""
    for name in _running(_SWEEPER):  # a sweeper would start new ones
        _kill(name)
    names = _running(_DISPATCHER, _COURIER)
    for name in names:
        _retire(name, timeout_s)
    deadline = time.monotonic() + timeout_s + _ANSWER_TIMEOUT_S
    while (left := names & _running(_DISPATCHER, _COURIER)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return sorted(left)


def drain_this_node(timeout_s: float) -> int:
    """Ask Ray to place nothing more on the node of this process, and wait until no work runs here.

    Dispatchers end their converters on this node when the calls of these have ended, and Serve moves its replicas to
    other nodes. Return the number of actors that still run after `timeout_s` seconds. Raises RuntimeError if this node
    is the head, or if Ray refuses.
    """
    node = ray.get_runtime_context().get_node_id()
    if any(each["NodeID"] == node and HEAD in each["Resources"] for each in ray.nodes()):
        raise RuntimeError("This node is the head, which cannot leave the cluster.")
    ends_at_ms = round(1000 * (time.time() + timeout_s))
    # Ray has no public function for this. "Preemption" is a drain that Ray does not refuse while the node is busy.
    gcs = ray._raylet.GcsClient(address=ray.get_runtime_context().gcs_address)  # noqa: SLF001
    is_accepted, reason = gcs.drain_node(node, _PREEMPTION, "pixtools drain --here", ends_at_ms)
    if not is_accepted:
        raise RuntimeError(f"Ray does not drain this node: {reason}")
    deadline = time.monotonic() + timeout_s
    while (left := _actors_on(node)) and time.monotonic() < deadline:
        time.sleep(0.5)
    return left


def _actors_on(node: str) -> int:
    """Return the number of actors on a node, without the proxy of Serve, which stays until the node is gone."""
    actors = ray._private.state.actors().values()  # noqa: SLF001 (the public function asks the dashboard)
    here = (each for each in actors if each["State"] == "ALIVE" and each["Address"]["NodeID"] == node)
    return sum(not each["ActorClassName"].endswith("ProxyActor") for each in here)


async def stats(settings: Settings) -> list[dict[str, Any] | None]:
    """Return Dispatcher.stats of each dispatcher of this build. None stands for a dispatcher that does not answer."""
    return await _all_stats(_names(_DISPATCHER, settings.dispatchers, settings))


async def courier_stats(settings: Settings) -> list[dict[str, Any] | None]:
    """Return Courier.stats of each courier of this build. None stands for a courier that does not answer."""
    return await _all_stats(_names(_COURIER, settings.couriers, settings))


async def redrive(owner: str, selection: DeadLetterSelection) -> int:
    """Call DeadLetterQueue.redrive. Raises the errors of that method, and QueueDown if the queue does not answer."""
    return await _call_queue(lambda queue: queue.redrive.remote(owner, selection))


async def retry(owner: str, job_id: uuid.UUID) -> int:
    """Call DeadLetterQueue.retry. Raises the errors of that method, and QueueDown if the queue does not answer."""
    return await _call_queue(lambda queue: queue.retry.remote(owner, job_id))


async def discard(owner: str, selection: DeadLetterSelection) -> int:
    """Call DeadLetterQueue.discard. Raises the errors of that method, and QueueDown if the queue does not answer."""
    return await _call_queue(lambda queue: queue.discard.remote(owner, selection))


def code_digest(root: Path) -> str:
    """Return a digest of the source files under `root` that can run in an actor."""
    other = tuple(root / folder for folder in _OTHER_CODE)
    files = sorted(
        path
        for package in _ACTOR_CODE
        for path in (root / package).rglob("*.py")
        if not any(path.is_relative_to(folder) for folder in other)
    )
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()


@cache
def _own_code() -> str:
    return code_digest(Path(__file__).parent.parent)


def _build(settings: Settings) -> str:
    """Return a digest of the code and the settings of the actors that this process starts."""
    values = [value.get_secret_value() if isinstance(value, SecretStr) else str(value) for _, value in settings]
    return hashlib.sha256("\0".join([_own_code(), *values]).encode()).hexdigest()[:8]


def _launch_queue(settings: Settings) -> None:
    """Start the dead-letter queue. The name of the queue is the same in all builds, so that every process finds it."""
    build = _build(settings)
    deadline = time.monotonic() + QUEUE_REPLACEMENT_TIMEOUT_S
    while True:
        queue = ray.remote(DeadLetterQueueActor).options(name=_QUEUE, **COORDINATOR).remote(settings, build)
        try:
            if ray.get(queue.build.remote(), timeout=QUEUE_ANSWER_TIMEOUT_S) == build:
                return
            ray.kill(queue)
        except RayError as error:  # for example because another ingress replica has just ended the old queue
            log.info("the dead-letter queue is not up yet: %s", error)
        if time.monotonic() > deadline:
            raise RuntimeError(
                f"The dead-letter queue of another version could not be replaced in {QUEUE_REPLACEMENT_TIMEOUT_S:g} s."
            )
        time.sleep(QUEUE_REPLACEMENT_PAUSE_S)


def _capacity(settings: Settings) -> Capacity:
    """Return the present limits of the converter pool of one dispatcher."""
    nodes = ray.nodes()
    # Ray has no public function for this.
    leaving = set(ray._private.state.state.get_draining_nodes())  # noqa: SLF001
    leaving |= {node["NodeID"] for node in nodes if not node["Alive"]}
    cpus = int(sum(node["Resources"].get("CPU", 0) for node in nodes if node["NodeID"] not in leaving))
    return Capacity(settings.max_converters or max(1, cpus // settings.dispatchers), frozenset(leaving))


def _names(kind: str, number: int, settings: Settings) -> tuple[str, ...]:
    """Return the prefixes of the names of `number` actors of this build. In each name, a number follows the prefix."""
    return tuple(f"{kind}{each}-{_build(settings)}-" for each in range(number))


def _running(*prefixes: str) -> set[str]:
    """Return the names of all running actors whose name begins with one of `prefixes`."""
    found = ray.util.list_named_actors(all_namespaces=True)
    return {actor["name"] for actor in found if actor["namespace"] == NAMESPACE and actor["name"].startswith(prefixes)}


def _is_retiring(name: str) -> bool:
    """Return whether an actor is retiring or has ended. Return False if it does not answer, or is restarting."""
    try:
        actor = ray.get_actor(name, namespace=NAMESPACE)
        return bool(ray.get(actor.stats.remote(), timeout=_ANSWER_TIMEOUT_S)["retiring"])
    except ValueError:  # the actor has ended
        return True
    except RayError:
        return False


def _retire(name: str, timeout_s: float) -> None:
    with suppress(ValueError):
        actor = ray.get_actor(name, namespace=NAMESPACE)
        if hasattr(actor, "retire"):
            actor.retire.remote(timeout_s)
        else:  # a dispatcher whose code is older than database version 0001; the sweeper returns its jobs to the queue
            ray.kill(actor)


def _kill(name: str) -> None:
    with suppress(ValueError):
        ray.kill(ray.get_actor(name, namespace=NAMESPACE))


def _destroy_current_actor() -> None:
    ray.kill(ray.get_runtime_context().current_actor)


async def _all_stats(prefixes: tuple[str, ...]) -> list[dict[str, Any] | None]:
    names = await asyncio.to_thread(_running, *prefixes)
    return list(await asyncio.gather(*map(_stats, sorted(names))))


async def _stats(name: str) -> dict[str, Any] | None:
    try:
        async with asyncio.timeout(_ANSWER_TIMEOUT_S):
            actor = await asyncio.to_thread(ray.get_actor, name, namespace=NAMESPACE)
            answer: dict[str, Any] = await actor.stats.remote()
    except (RayError, ValueError, TimeoutError):
        return None
    return answer


async def _call_queue(call: Callable[[Any], Any]) -> int:
    try:
        async with asyncio.timeout(_RESTART_TIMEOUT_S):
            queue = await asyncio.to_thread(ray.get_actor, _QUEUE, namespace=NAMESPACE)
            number: int = await call(queue)
    except RayTaskError as error:
        raise error.cause from error
    except (RayError, ValueError, TimeoutError) as error:
        raise QueueDown("Try again in a moment.") from error
    return number
