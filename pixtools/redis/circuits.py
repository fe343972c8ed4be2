"""Circuit breakers of destinations, which the couriers share through Redis.

A destination that fails five times in a row opens its circuit. For a minute, no courier sends anything to it. Then one
probe at a time may go out, from whichever courier asks first. A successful probe closes the circuit.

pybreaker decides when a circuit opens and closes. Its own ways to guard a call do not suit asynchronous code: while a
circuit is half open, they let every concurrent call through. So a courier asks `admit` before it sends, and tells
`report` the result. Redis may be down or lose everything. Then each process counts for itself.

All methods block, so call them in a thread. One call at a time runs.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import pybreaker
import redis

from pixtools.redis import client as redis_client
from pixtools.redis.client import DELETE_IF_OURS, REDIS_ERRORS, RedisOutageLog
from pixtools.settings import Settings

FAILURES_TO_OPEN = 5
OPEN_S = 60.0
PROBE_S = 20.0
"""After this time, the reservation of a probe expires. An attempt is shorter, so its courier must have died."""

_PROBE_PAUSE_S = 5.0  # until a courier asks again while another courier has the probe
_FORGET_S = 86_400  # a destination without failures for a day is forgotten
# After an error, Redis is not asked for this time, so that an outage does not slow down every attempt.
_WITHOUT_REDIS_S = 5.0
_MAX_KEPT = 10_000  # circuits in the memory of a process
_CLOSED = {"state": pybreaker.STATE_CLOSED, "failures": "0", "opened_at": "0"}

T = TypeVar("T")


@dataclass(frozen=True)
class Admission:
    """The answer to a courier that wants to send. If `is_allowed` is false, it may ask again after `wait_s`.

    `is_clean` says that the circuit has no failures. Then a success need not be reported.
    """

    is_allowed: bool
    wait_s: float = 0.0
    probe: str | None = None  # the token of a probe, which `report` gives back
    is_clean: bool = False


@dataclass(frozen=True)
class CircuitStatus:
    """The circuit of a destination. If the circuit is open, a probe may go out from `retry_at` on."""

    state: str
    failures: int
    retry_at: datetime | None


class _Failed(Exception):
    """Tells pybreaker that the destination failed."""


class _Storage(pybreaker.CircuitBreakerStorage):
    """The state of one circuit, stored in Redis. This object keeps a copy, which is used while Redis is down."""

    def __init__(self, name: str, shared: _Shared) -> None:
        super().__init__(name)
        self._shared = shared
        self._fields = dict(_CLOSED)

    def replace(self, fields: Mapping[str, str]) -> None:
        """Replace the copy by the fields in Redis."""
        self._fields = _CLOSED | dict(fields)

    @property
    def state(self) -> str:
        return self._fields["state"]

    @state.setter
    def state(self, state: str) -> None:
        self._write(state=state)

    @property
    def counter(self) -> int:
        return int(self._fields["failures"])

    def increment_counter(self) -> None:
        def increment(client: redis.Redis) -> int:
            with client.pipeline() as pipeline:
                pipeline.hincrby(self.name, "failures", 1)
                pipeline.expire(self.name, _FORGET_S)
                return int(pipeline.execute()[0])

        counted = self._shared.call(increment)
        self._fields["failures"] = str(self.counter + 1 if counted is None else counted)

    def reset_counter(self) -> None:
        if self.counter:
            self._write(failures="0")

    @property
    def success_counter(self) -> int:
        return 1  # one success closes a circuit that is half open

    @property
    def opened_at(self) -> datetime | None:
        return datetime.fromtimestamp(float(self._fields["opened_at"]), UTC)

    @opened_at.setter
    def opened_at(self, at: datetime) -> None:
        self._write(opened_at=str(at.timestamp()))

    def _write(self, **fields: str) -> None:
        self._fields |= fields
        values: dict[Any, Any] = dict(fields)

        def write(client: redis.Redis) -> bool:
            with client.pipeline() as pipeline:
                pipeline.hset(self.name, mapping=values)
                pipeline.expire(self.name, _FORGET_S)
                pipeline.execute()
                return True

        self._shared.call(write)


class _Shared:
    """Calls of Redis that return None if Redis does not answer."""

    def __init__(self, settings: Settings, outages: RedisOutageLog, clock: Callable[[], float]) -> None:
        self._redis = redis_client.connect_blocking(settings)
        self._outages = outages
        self._clock = clock
        self._silent_until = 0.0

    def call(self, command: Callable[[redis.Redis], T]) -> T | None:
        if self._clock() < self._silent_until:
            return None
        try:
            return command(self._redis)
        except REDIS_ERRORS as error:
            self._silent_until = self._clock() + _WITHOUT_REDIS_S
            self._outages.failed(error, "reading or changing a circuit")
            return None

    def close(self) -> None:
        self._redis.close()


class Circuits:
    """The circuits of all destinations."""

    def __init__(
        self,
        settings: Settings,
        outages: RedisOutageLog = redis_client.OUTAGES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock` returns seconds."""
        self._shared = _Shared(settings, outages, clock)
        self._clock = clock
        self._breakers: dict[str, tuple[pybreaker.CircuitBreaker, _Storage]] = {}
        self._local_probes: dict[str, float] = {}  # when each probe ends, if Redis did not know about it
        self._lock = threading.Lock()

    def admit(self, destinations: Sequence[str]) -> list[Admission]:
        """Return for each attempt whether it may go to its destination now.

        `destinations` has one item for each attempt. If the circuit is open, the allowed attempt is a probe.
        """
        with self._lock:
            storages = self._read(destinations)
            return [self._admission(destination, storages[destination]) for destination in destinations]

    def _admission(self, destination: str, storage: _Storage) -> Admission:
        if storage.state == pybreaker.STATE_CLOSED:
            self._forget_if_fine(destination, storage)
            return Admission(is_allowed=True, is_clean=storage.counter == 0)
        remaining = _remaining_s(storage)
        if remaining > 0:
            return Admission(is_allowed=False, wait_s=remaining)
        probe = self._take_probe(destination)
        return Admission(probe is not None, 0.0 if probe else _PROBE_PAUSE_S, probe)

    def report(self, destination: str, admission: Admission, *, failed: bool | None) -> None:
        """Count the result of an admitted attempt.

        `failed` says whether the destination itself failed. None means that the attempt made no request, so it says
        nothing about the destination.
        """
        with self._lock:
            if failed is False and admission.is_clean:
                return
            breaker, storage = self._circuit(destination)
            if failed is not None:
                self._read([destination])
                with suppress(_Failed, pybreaker.CircuitBreakerError):
                    breaker.call(_fail if failed else _succeed)
            if admission.probe is not None:
                self._release_probe(destination, admission.probe)
            self._forget_if_fine(destination, storage)

    def statuses(self, destinations: Iterable[str]) -> dict[str, CircuitStatus]:
        """Return the circuit of each destination."""
        with self._lock:
            storages = self._read(destinations)
            return {destination: self._status(destination, storage) for destination, storage in storages.items()}

    def close(self) -> None:
        """Close the connections to Redis."""
        self._shared.close()

    def _status(self, destination: str, storage: _Storage) -> CircuitStatus:
        opened = storage.opened_at if storage.state != pybreaker.STATE_CLOSED else None
        retry_at = None if opened is None else datetime.fromtimestamp(opened.timestamp() + OPEN_S, UTC)
        self._forget_if_fine(destination, storage)
        return CircuitStatus(storage.state, storage.counter, retry_at)

    def _circuit(self, destination: str) -> tuple[pybreaker.CircuitBreaker, _Storage]:
        if destination not in self._breakers:
            storage = _Storage(_name("circuit", destination), self._shared)
            breaker = pybreaker.CircuitBreaker(
                fail_max=FAILURES_TO_OPEN, reset_timeout=OPEN_S, state_storage=storage, name=destination
            )
            self._breakers[destination] = (breaker, storage)
        return self._breakers[destination]

    def _read(self, destinations: Iterable[str]) -> dict[str, _Storage]:
        """Return the circuits of these destinations, read from Redis in one round trip."""
        storages = {destination: self._circuit(destination)[1] for destination in destinations}

        def read(client: redis.Redis) -> list[dict[str, str]]:
            with client.pipeline(transaction=False) as pipeline:
                for storage in storages.values():
                    pipeline.hgetall(storage.name)
                return pipeline.execute()

        for storage, fields in zip(storages.values(), self._shared.call(read) or (), strict=False):
            storage.replace(fields)
        return storages

    def _forget_if_fine(self, destination: str, storage: _Storage) -> None:
        """Forget a circuit without failures. Forget all if there are too many: anybody can name destinations."""
        if storage.state == pybreaker.STATE_CLOSED and storage.counter == 0:
            self._breakers.pop(destination, None)
        elif len(self._breakers) > _MAX_KEPT:
            self._breakers.clear()  # Redis still has them

    def _take_probe(self, destination: str) -> str | None:
        """Reserve the probe of a destination. Return its token, or None if another attempt has the probe."""
        token, name = secrets.token_hex(8), _name("probe", destination)
        # Each process also keeps its own reservation, so that one probe at a time goes out while Redis is down.
        if self._local_probes.get(destination, 0.0) > self._clock():
            return None

        def reserve(client: redis.Redis) -> bool:
            return bool(client.set(name, token, nx=True, px=int(PROBE_S * 1000)))

        if self._shared.call(reserve) is False:
            return None
        self._local_probes[destination] = self._clock() + PROBE_S
        return token

    def _release_probe(self, destination: str, token: str) -> None:
        name = _name("probe", destination)

        def release(client: redis.Redis) -> Any:
            return client.eval(DELETE_IF_OURS, 1, name, token)

        self._shared.call(release)
        self._local_probes.pop(destination, None)


def _remaining_s(storage: _Storage) -> float:
    opened_at = storage.opened_at
    if opened_at is None:
        return 0.0
    # If the clock jumped, the difference may be far too large.
    return min(opened_at.timestamp() + OPEN_S - datetime.now(UTC).timestamp(), OPEN_S)


def _name(kind: str, destination: str) -> str:
    """Return the name of a key in Redis. The name is a digest, so that Redis does not reveal receivers."""
    return f"pixtools:{kind}:{hashlib.sha256(destination.encode()).hexdigest()}"


def _fail() -> None:
    raise _Failed


def _succeed() -> None:
    pass
