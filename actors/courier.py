"""The courier: takes deliveries from the outbox, sends them to their receivers, and records the answers."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter as Tally
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

from ray.util.metrics import Counter, Gauge, Histogram

from actors.webhook_bodies import WebhookBodies
from pixtools.database.delivery_store import Attempted, DeliveryStore
from pixtools.errors import AddressBlocked, LeaseLost, OutboundError, PixToolsError
from pixtools.outbound.client import TIMEOUT_S, Answer, OutboundClient
from pixtools.outbound.targets import parse_target
from pixtools.redis.circuits import Admission, Circuits
from pixtools.redis.hints import DELIVERIES, Hints
from pixtools.retries import LOOP_PAUSE_S
from pixtools.settings import Settings
from pixtools.states import DeliveryState
from pixtools.waiting import until_database_answers, wait_at_most
from pixtools.webhooks import signing
from pixtools.webhooks.records import Answered, ClaimedDelivery

log = logging.getLogger(__name__)

MAX_AT_ONCE = 256
"""The number of deliveries that a courier sends at a time."""

# A courier has this time from the claim of a delivery until it has recorded the result. An attempt takes at most 15 s.
_LEASE = timedelta(seconds=60)
_MAX_PER_DESTINATION = 8
# The courier waits for this time before it claims deliveries or records results. So one transaction handles several of
# them. A transaction takes about as much CPU time as an attempt.
_GATHER_S = 0.2
_BUSY_S = 0.02  # used instead if more deliveries probably wait
# Nobody sends a hint when a job ends, so a courier polls four times a second. Without webhooks, there is no courier.
_POLL_S = 0.25
_RESCUE_S = 5.0
_OBSERVE_S = 15.0
_TRY_LATER = (429, 503)  # the statuses whose `Retry-After` counts

T = TypeVar("T")


class Courier:
    """Sends webhooks until `retire` is called. `start` begins the loops.

    Couriers share the outbox in Postgres and the circuits in Redis. If a courier dies, its deliveries are sent again.
    """

    def __init__(
        self,
        name: str,
        settings: Settings,
        *,
        store: DeliveryStore,
        bodies: WebhookBodies,
        circuits: Circuits,
        hints: Hints,
        client: OutboundClient,
        destroy_self: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`name` is unique and stays the same after a restart. `destroy_self` ends the process of this courier.

        `clock` returns seconds.
        """
        self._name = name
        self._settings = settings
        self._store = store
        self._bodies = bodies
        self._circuits = circuits
        self._hints = hints
        self._client = client
        self._destroy_self = destroy_self
        self._clock = clock
        self._wake = asyncio.Event()
        self._sending: dict[asyncio.Task[None], str] = {}  # the destination of each delivery
        self._closed_until: dict[str, float] = {}  # destinations with an open circuit, by the time of the loop
        self._taking = asyncio.Lock()  # held during a claim
        self._after = ""  # the next claim begins with the destinations after this one
        self._has_backlog = False  # whether the last claim filled all places of a destination
        self._gave_back = False
        self._results: list[Attempted] = []
        self._has_results = asyncio.Event()
        self._retirement: asyncio.Task[None] | None = None
        self._loops: list[asyncio.Task[None]] = []
        # Calls to Redis have their own thread. If Redis does not answer, the threads for the database stay free.
        self._circuit_thread = ThreadPoolExecutor(1, "circuits")
        self._attempts = Counter("pixtools_deliveries_total", "Attempts of deliveries, by result.", ("result",))
        self._waiting = Gauge("pixtools_deliveries", "Deliveries that have not ended, by state.", ("state",))
        self._open = Gauge("pixtools_open_circuits", "Destinations to which this courier sends nothing at the moment.")
        self._seconds = Histogram(
            "pixtools_delivery_seconds", "Duration of attempts.", boundaries=[0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15]
        )

    async def start(self) -> None:
        """Begin to send, and return at once."""
        turns = (self._deliver, self._record, self._rescue, self._observe, self._listen)
        self._loops = [asyncio.create_task(self._repeat(turn)) for turn in turns]

    def stats(self) -> dict[str, Any]:
        """Return what the health page shows: the number of running attempts, and whether this courier is retiring."""
        return {"sending": len(self._sending), "retiring": self._retirement is not None}

    async def retire(self, timeout_s: float) -> None:
        """Take no more deliveries, and end this process when the running attempts are recorded.

        After `timeout_s` seconds, end anyway. The call itself returns at once. Other versions of the code call this
        method, so keep its name and its positional argument.
        """
        if self._retirement is None:
            self._retirement = asyncio.create_task(self._retire(timeout_s))

    async def _retire(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                async with self._taking:
                    pass  # wait until a running claim has put its deliveries into `_sending`
                while self._sending or self._results:
                    await asyncio.wait({*self._sending, *self._loops}, timeout=_GATHER_S)
        except TimeoutError:
            log.warning("retiring with open attempts: courier=%s attempts=%d", self._name, len(self._sending))
        finally:
            self._destroy_self()

    async def _repeat(self, turn: Callable[[], Coroutine[Any, Any, None]]) -> None:
        while True:
            try:
                await turn()
            except Exception:
                log.exception("courier loop failed: courier=%s", self._name)
                await asyncio.sleep(LOOP_PAUSE_S)

    async def _listen(self) -> None:
        async for _ in self._hints.listen(DELIVERIES):
            self._wake.set()

    async def _deliver(self) -> None:
        """Claim deliveries and start them. If there is none, wait for a hint or for the next poll."""
        self._wake.clear()
        async with self._taking:
            taken = await self._take()
        if taken:
            places = Tally(self._sending.values())
            self._has_backlog = any(places[destination] >= _MAX_PER_DESTINATION for destination in taken)
        elif not self._after:
            await wait_at_most(self._wake, _POLL_S)
        await asyncio.sleep(_BUSY_S if self._has_backlog or self._after else _GATHER_S)

    async def _take(self) -> set[str]:
        """Claim deliveries and start them. Return their destinations."""
        room = 0 if self._retirement is not None else MAX_AT_ONCE - len(self._sending)
        if not room:
            return set()
        if not self._gave_back:
            # If Ray has restarted this actor, its old attempts have stopped. Count them as failed now. Otherwise they
            # would wait until their leases have expired.
            give_back = partial(asyncio.to_thread, self._store.give_back, self._name)
            await until_database_answers(give_back, doing="giving back deliveries")
            self._gave_back = True
        claimed, claimed_at = await until_database_answers(partial(self._claim, room), doing="claiming deliveries")
        destinations = [delivery.record.destination for delivery in claimed]
        admissions = await self._in_circuit_thread(self._circuits.admit, destinations) if claimed else []
        for delivery, admission in zip(claimed, admissions, strict=True):
            task = asyncio.create_task(self._send(delivery, admission, claimed_at))
            self._sending[task] = delivery.record.destination
            task.add_done_callback(self._forget)
        return set(destinations)

    async def _claim(self, room: int) -> tuple[list[ClaimedDelivery], float]:
        """Claim deliveries. Return them, and the time when the claim began."""
        now = asyncio.get_running_loop().time()
        self._closed_until = {each: until for each, until in self._closed_until.items() if until > now}
        taken = Tally(self._sending.values())
        taken.update(dict.fromkeys(self._closed_until, _MAX_PER_DESTINATION))
        claimed_at = self._clock()
        claimed, self._after = await asyncio.to_thread(
            self._store.claim, self._name, room, _MAX_PER_DESTINATION, taken, _LEASE, self._after
        )
        return claimed, claimed_at

    def _forget(self, task: asyncio.Task[None]) -> None:
        del self._sending[task]
        self._wake.set()
        if not task.cancelled() and (error := task.exception()):
            # The lease runs out, and then the delivery is sent again.
            log.error("attempt failed: courier=%s", self._name, exc_info=error)

    async def _send(self, claimed: ClaimedDelivery, admission: Admission, claimed_at: float) -> None:
        """Send a claimed delivery, and append the result to `_results`. If the circuit is open, postpone it instead."""
        delivery = claimed.record
        if not admission.is_allowed:
            await self._postpone(claimed, admission)
            return
        failed = None
        try:
            result = await self._attempt(claimed, claimed_at)
            if result is not None:
                failed = result.destination_failed
                self._results.append(Attempted(delivery.id, delivery.attempt, delivery.url, result))
                self._has_results.set()
                self._seconds.observe(result.ms / 1_000)
        finally:  # even without a result: if this attempt was the probe, the next probe waits for the report
            if failed is not False or not admission.is_clean:
                report = partial(self._circuits.report, failed=failed)
                await self._in_circuit_thread(report, delivery.destination, admission)

    async def _postpone(self, claimed: ClaimedDelivery, admission: Admission) -> None:
        """Return a delivery to the queue until its destination may be tried again. This counts as no attempt."""
        delivery = claimed.record
        until = asyncio.get_running_loop().time() + admission.wait_s
        self._closed_until[delivery.destination] = until
        pause = timedelta(seconds=admission.wait_s + random.uniform(0, 1))  # noqa: S311 (jitter, not a secret)
        await until_database_answers(
            partial(asyncio.to_thread, self._store.postpone, delivery.id, delivery.attempt, pause),
            doing="postponing deliveries",
        )

    async def _attempt(self, claimed: ClaimedDelivery, claimed_at: float) -> Answered | None:
        """Send one request, and return the result. If the request fails, the result contains the code of the error.

        Return None if it is too late for a request, because another courier may have the delivery by now.
        """
        delivery = claimed.record
        began = time.monotonic()
        try:
            body, secrets = await self._body(claimed)
            # The database may have kept this attempt waiting, or this process may have stood still.
            if self._clock() > claimed_at + _LEASE.total_seconds() - 2 * TIMEOUT_S:
                log.warning("too late for an attempt: delivery=%s attempt=%d", delivery.id, delivery.attempt)
                return None
            headers = signing.headers(str(delivery.id), int(time.time()), body, secrets)
            answer = await self._client.post(
                parse_target(delivery.url),
                headers | {"content-type": "application/json", "user-agent": "PixTools"},
                body,
            )
        except PixToolsError as error:
            log.info("not delivered: delivery=%s attempt=%d code=%s", delivery.id, delivery.attempt, error.code)
            return Answered(
                status=None,
                error=error.code,
                ms=round(1_000 * (time.monotonic() - began)),
                answer=error.detail,
                destination_failed=_destination_failed(error),
            )
        except Exception:
            # Count this as a failed attempt. Otherwise the delivery would be sent again for ever.
            log.exception("attempt failed: delivery=%s attempt=%d", delivery.id, delivery.attempt)
            return Answered(status=None, error="internal_error", ms=round(1_000 * (time.monotonic() - began)))
        return _answered(answer)

    async def _body(self, claimed: ClaimedDelivery) -> tuple[bytes, list[str]]:
        """Return the body of a delivery, and the secrets for its signatures."""
        if not self._bodies.needs_database(claimed):
            return self._bodies.of(claimed)  # not in a thread, because switching threads takes longer than this call
        read = partial(asyncio.to_thread, self._bodies.of, claimed)
        return await until_database_answers(read, doing="reading a job for a webhook")

    async def _record(self) -> None:
        """Wait for a result. Then write all results that have arrived, in one transaction."""
        await self._has_results.wait()
        await asyncio.sleep(_GATHER_S)
        self._has_results.clear()
        results = list(self._results)
        written = partial(asyncio.to_thread, self._store.record, results)
        try:
            states = await until_database_answers(written, doing="recording deliveries")
        finally:
            # Do this after the write, because a courier that retires waits until this list is empty.
            del self._results[: len(results)]
        for attempted, state in zip(results, states, strict=True):
            if isinstance(state, LeaseLost):
                log.warning("lease lost: delivery=%s attempt=%d", attempted.delivery_id, attempted.attempt)
        for result, number in Tally(map(_metric, states)).items():
            self._attempts.inc(number, {"result": result})

    async def _rescue(self) -> None:
        """Put deliveries with an expired lease back into the queue, because their couriers have died."""
        await until_database_answers(
            partial(asyncio.to_thread, self._store.rescue), doing="rescuing deliveries of lost couriers"
        )
        await asyncio.sleep(_RESCUE_S)

    async def _observe(self) -> None:
        """Update the metrics, and delete the deliveries that are past their retention."""
        self._open.set(len(self._closed_until))
        delete = partial(asyncio.to_thread, self._store.delete_old, self._settings.delivery_retention)
        while await until_database_answers(delete, doing="deleting old deliveries"):
            pass  # repeat, because one call deletes a limited number of deliveries
        counts = await until_database_answers(
            partial(asyncio.to_thread, self._store.counts), doing="counting deliveries"
        )
        for state, number in counts.items():
            self._waiting.set(number, {"state": state.value})
        await asyncio.sleep(_OBSERVE_S)

    async def _in_circuit_thread(self, call: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._circuit_thread, call, *arguments)


def _metric(state: DeliveryState | LeaseLost) -> str:
    if isinstance(state, LeaseLost):
        return "stale"
    return "retry" if state == DeliveryState.WAITING else state.value


def _answered(answer: Answer) -> Answered:
    seconds = (answer.retry_after or "") if answer.status in _TRY_LATER else ""
    return Answered(
        status=answer.status,
        error=None,
        ms=answer.ms,
        answer=answer.body.decode(errors="replace").replace("\0", "\ufffd") or None,
        retry_after=timedelta(seconds=int(seconds)) if _is_number(seconds) else None,
        destination_failed=answer.status >= 500,  # noqa: PLR2004 (statuses of a server that fails)
    )


def _destination_failed(error: PixToolsError) -> bool | None:
    """Return True if the destination caused the error, or None if no request was made."""
    return True if isinstance(error, OutboundError) and not isinstance(error, AddressBlocked) else None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 9  # noqa: PLR2004 (a longer number is a mistake)
