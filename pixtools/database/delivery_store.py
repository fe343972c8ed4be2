"""The delivery store: the SQL that takes, records, lists, replays and deletes deliveries.

Each public method is one transaction. Every method raises DatabaseDown if the database does not answer.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import (
    ColumnElement,
    Connection,
    Float,
    Integer,
    Select,
    Text,
    Uuid,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlmodel import col
from uuid6 import uuid7

from pixtools.database.connection import Database
from pixtools.database.delivery_claims import claim_deliveries
from pixtools.database.json_rows import json_rows
from pixtools.database.rows import DELIVERY, DELIVERY_ATTEMPT
from pixtools.database.tables import DeadLetter, Delivery, DeliveryAttempt, Job, WebhookEndpoint
from pixtools.database.transitions import (
    hold_deliveries_of_disabled,
    move_deliveries,
    move_letters,
    send_again,
)
from pixtools.errors import DeliveryFailed, DeliveryPending, LeaseLost, NotFound
from pixtools.retries import delivery_pause
from pixtools.states import (
    DEAD_LETTER_OPEN,
    DELIVERY_MOVES,
    DELIVERY_OPEN,
    DeadLetterState,
    DeliveryState,
    states_before,
)
from pixtools.webhooks.events import Event
from pixtools.webhooks.records import Answered, AttemptRecord, ClaimedDelivery, DeliveryRecord, DeliverySelection

_BATCH = 500  # the largest number of deliveries that one transaction deletes or returns to the queue
_MAX_REPLAYED = 10_000
_MAX_SHOWN = 50  # attempts of a delivery; each replay adds some
_ENDED = (DeliveryState.DELIVERED, DeliveryState.FAILED)
_COURIER_LOST = Answered(status=None, error="courier_lost", ms=0)


@dataclass(frozen=True)
class Attempted:
    """An attempt of a delivery that a courier held, and its result. `url` is where the request went."""

    delivery_id: uuid.UUID
    attempt: int
    url: str
    result: Answered


_done = json_rows("done", delivery_id=Uuid(), attempt=Integer(), ms=Integer(), status=Integer(), answer=Text())
_delivered = (
    update(Delivery)
    .where(
        col(Delivery.id) == _done.c.delivery_id,
        col(Delivery.attempt) == _done.c.attempt,
        col(Delivery.state).in_(states_before(DELIVERY_MOVES, DeliveryState.DELIVERED)),
    )
    .values(state=DeliveryState.DELIVERED, tries=Delivery.tries + 1, finished_at=func.now(), lease_until=None)
    .returning(col(Delivery.id), _done.c.attempt, _done.c.ms, _done.c.status, _done.c.answer)
    .cte("delivered")
)
_RECORD_DELIVERED = (
    insert(DeliveryAttempt)
    .from_select(["delivery_id", "number", "ms", "status", "answer"], select(*_delivered.c))
    .returning(col(DeliveryAttempt.delivery_id))
)


_later = json_rows("later", id=Uuid(), pause_s=Float())
_SPREAD = (
    update(Delivery)
    .where(col(Delivery.id) == _later.c.id)
    .values(next_at=func.now() + func.make_interval(0, 0, 0, 0, 0, 0, _later.c.pause_s))
)


class DeliveryStore:
    """The deliveries in one database."""

    def __init__(self, database: Database) -> None:
        self._transaction = database.transaction
        self._reading = database.reading

    # Couriers

    def claim(
        self, courier: str, limit: int, room: int, taken: Mapping[str, int], lease: timedelta, after: str = ""
    ) -> tuple[list[ClaimedDelivery], str]:
        """Take at most `limit` deliveries that are due. Each starts its next attempt, to be recorded within `lease`.

        `room` is the largest number of deliveries for one destination, and `taken` says how many of these places are
        taken. So a destination with many deliveries does not delay the others.

        The destinations take turns in alphabetical order, beginning after `after`. One claim looks at 500 of them at
        most. Return the deliveries, and the `after` of the next claim. It is empty if no destination follows.
        """
        with self._transaction() as connection:
            return claim_deliveries(connection, courier, limit, room, taken, lease, after)

    def rescue(self) -> int:
        """Count attempts with an expired lease as failed. Return the number of deliveries.

        Also hold the waiting deliveries of disabled endpoints. An endpoint may be disabled at the moment at which one
        of its deliveries returns to the queue.
        """
        with self._transaction() as connection:
            hold_deliveries_of_disabled(connection, col(Delivery.state).in_(DELIVERY_OPEN))
            return self._fail_lost(connection, [col(Delivery.lease_until) < func.now()])

    def give_back(self, courier: str) -> int:
        """Return the deliveries of a dead courier to the queue, as failed attempts. Return the number of deliveries."""
        with self._transaction() as connection:
            return self._fail_lost(connection, [col(Delivery.courier) == courier])

    def record(self, attempts: Sequence[Attempted]) -> list[DeliveryState | LeaseLost]:
        """Write the results of attempts. Return the new state of each delivery.

        An attempt gets LeaseLost if another attempt of the delivery has begun meanwhile. Then nothing of it is written.
        """
        successes = [attempt for attempt in attempts if attempt.result.is_success]
        with self._transaction() as connection:
            delivered = _record_successes(connection, successes)
            return [
                _or_lost(DeliveryState.DELIVERED if attempt.delivery_id in delivered else None, attempt)
                if attempt.result.is_success
                else _or_lost(_record_failure(connection, attempt), attempt)
                for attempt in attempts
            ]

    def postpone(self, delivery_id: uuid.UUID, attempt: int, pause: timedelta) -> None:
        """Return a claimed delivery to the queue without an attempt, because the circuit of its receiver is open."""
        held = [*_held(delivery_id, attempt)]
        with self._transaction() as connection:
            move_deliveries(connection, DeliveryState.WAITING, held, next_at=func.now() + pause, lease_until=None)

    def counts(self) -> dict[DeliveryState, int]:
        """Return how many deliveries of all owners wait, are being sent, or are held."""
        query = (
            select(col(Delivery.state), func.count())
            .where(col(Delivery.state).in_(DELIVERY_OPEN))
            .group_by(col(Delivery.state))
        )
        with self._reading() as connection:
            found = dict(connection.execute(query).all())
        return {state: found.get(state, 0) for state in DELIVERY_OPEN}

    def is_used(self) -> bool:
        """Return whether couriers have something to do: there is an endpoint, or a delivery has not ended."""
        unfinished = select(Delivery).where(col(Delivery.state) == DeliveryState.WAITING).exists()
        sending = select(Delivery).where(col(Delivery.state) == DeliveryState.SENDING).exists()
        with self._reading() as connection:
            return bool(connection.scalar(select(select(WebhookEndpoint).exists() | unfinished | sending)))

    def delete_old(self, retention: timedelta) -> int:
        """Delete at most 500 deliveries that ended more than `retention` ago. Return their number.

        A delivery with an open dead letter stays, as long as its job does.
        """
        open_letter = select(DeadLetter).where(
            col(DeadLetter.delivery_id) == col(Delivery.id), col(DeadLetter.state).in_(DEAD_LETTER_OPEN)
        )
        old = (
            select(col(Delivery.id))
            .where(col(Delivery.finished_at) < func.now() - retention, ~open_letter.exists())
            .limit(_BATCH)
        )
        statement = delete(Delivery).where(col(Delivery.id).in_(old)).returning(col(Delivery.id))
        with self._transaction() as connection:
            return len(connection.execute(statement).all())

    def _fail_lost(self, connection: Connection, which: Sequence[ColumnElement[bool]]) -> int:
        """Count the attempts of lost couriers as failed. So a delivery that kills its courier runs out of attempts."""
        lost = (
            select(col(Delivery.id), col(Delivery.attempt), col(Delivery.url))
            .where(col(Delivery.state) == DeliveryState.SENDING, *which)
            .limit(_BATCH)
            .with_for_update(skip_locked=True)
        )
        rows = connection.execute(lost).all()
        for delivery_id, attempt, url in rows:
            _record_failure(connection, Attempted(delivery_id, attempt, url, _COURIER_LOST))
        return len(rows)

    # Owners

    def page(
        self, owner: str, selection: DeliverySelection, *, before: uuid.UUID | None, limit: int
    ) -> list[DeliveryRecord]:
        """Return at most `limit` selected deliveries of an owner, newest first, after the delivery `before`."""
        conditions = _selected(owner, selection)
        if before is not None:
            conditions.append(col(Delivery.id) < before)
        query = select(*DELIVERY.columns).where(*conditions).order_by(col(Delivery.id).desc()).limit(limit)
        with self._reading() as connection:
            return [DELIVERY.record(row) for row in connection.execute(query)]

    def get(self, owner: str, delivery_id: uuid.UUID) -> tuple[DeliveryRecord, list[AttemptRecord]]:
        """Return a delivery and its last 50 attempts, in order. Raises NotFound if the owner has no such delivery."""
        query = select(*DELIVERY.columns).where(*_selected(owner, DeliverySelection(id=delivery_id)))
        attempts = (
            select(*DELIVERY_ATTEMPT.columns)
            .where(col(DeliveryAttempt.delivery_id) == delivery_id)
            .order_by(col(DeliveryAttempt.number).desc())
            .limit(_MAX_SHOWN)
        )
        with self._reading() as connection:
            row = connection.execute(query).one_or_none()
            if row is None:
                raise _not_found(delivery_id)
            return DELIVERY.record(row), [
                DELIVERY_ATTEMPT.record(found) for found in connection.execute(attempts).all()[::-1]
            ]

    def webhook_failed(self, job_id: uuid.UUID) -> bool:
        """Return whether the last delivery to the `webhook_url` of a job has failed."""
        query = (
            select(col(Delivery.state))
            .where(col(Delivery.job_id) == job_id, col(Delivery.endpoint_id).is_(None))
            .order_by(col(Delivery.id).desc())
            .limit(1)
        )
        with self._reading() as connection:
            return connection.scalar(query) in (DeliveryState.FAILED, DeliveryState.DISCARDED)

    def replay(self, owner: str, delivery_id: uuid.UUID) -> None:
        """Send an ended delivery again.

        Raises NotFound if the owner has no such delivery, and DeliveryPending if it has not ended or was discarded.
        """
        query = (
            select(col(Delivery.state))
            .where(*_selected(owner, DeliverySelection(id=delivery_id)))
            .with_for_update(key_share=True)
        )
        with self._transaction() as connection:
            state = connection.scalar(query)
            if state is None:
                raise _not_found(delivery_id)
            if state not in _ENDED:
                raise DeliveryPending(
                    f"Delivery {delivery_id} is {state}. Only delivered and failed ones can be replayed."
                )
            _replay(connection, [delivery_id])

    def replay_selected(self, owner: str, selection: DeliverySelection, per_s: float) -> int:
        """Send the selected deliveries that have ended again, `per_s` of them in a second. Return their number.

        One call replays at most 10,000 deliveries, the oldest first.
        """
        ended = (
            select(col(Delivery.id))
            .where(*_selected(owner, selection), col(Delivery.state).in_(_ENDED))
            .order_by(col(Delivery.id))
            .limit(_MAX_REPLAYED)
            .with_for_update(key_share=True)
        )
        with self._transaction() as connection:
            ids = connection.scalars(ended).all()
            _replay(connection, ids)
            rows = [{"id": str(each), "pause_s": place / per_s} for place, each in enumerate(ids)]
            connection.execute(_SPREAD, {"rows": rows})
            return len(ids)


def _record_successes(connection: Connection, successes: Iterable[Attempted]) -> set[uuid.UUID]:
    rows = [
        {
            "delivery_id": str(each.delivery_id),
            "attempt": each.attempt,
            "ms": each.result.ms,
            "status": each.result.status,
            "answer": each.result.answer,
        }
        for each in successes
    ]
    return set(connection.scalars(_RECORD_DELIVERED, {"rows": rows})) if rows else set()


def _record_failure(connection: Connection, attempted: Attempted) -> DeliveryState | None:
    """Record a failed attempt. Return the new state of the delivery, or None if the attempt is not current."""
    query = (
        select(col(Delivery.owner), *DELIVERY.columns)
        .where(*_held(attempted.delivery_id, attempted.attempt))
        .with_for_update(key_share=True)
    )
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    owner, *rest = row
    delivery, result = DELIVERY.record(rest), attempted.result
    connection.execute(
        insert(DeliveryAttempt).values(
            delivery_id=delivery.id, number=delivery.attempt, ms=result.ms, status=result.status, error=result.error,
            answer=result.answer,
        )
    )  # fmt: skip
    failures, tries = delivery.failures + 1, delivery.tries + 1
    is_gone = result.is_gone and (delivery.endpoint_id is None or _disable(connection, delivery, attempted.url))
    pause = None if is_gone or delivery.event == Event.TEST else delivery_pause(failures, result.retry_after)
    this = col(Delivery.id) == delivery.id
    if pause is not None:
        again = {"failures": failures, "tries": tries, "next_at": func.now() + pause, "lease_until": None}
        move_deliveries(connection, DeliveryState.WAITING, [this], **again)
        hold_deliveries_of_disabled(connection, this)
        return DeliveryState.WAITING
    move_deliveries(
        connection,
        DeliveryState.FAILED,
        [this],
        failures=failures,
        tries=tries,
        finished_at=func.now(),
        lease_until=None,
    )
    if delivery.job_id is not None:
        _add_dead_letter(connection, owner, delivery, delivery.job_id, result)
    return DeliveryState.FAILED


def _disable(connection: Connection, delivery: DeliveryRecord, url: str) -> bool:
    """Disable the endpoint of a delivery. Return False without a change if the URL of the endpoint is not `url` now."""
    this = [col(WebhookEndpoint.id) == delivery.endpoint_id, col(WebhookEndpoint.url) == url]
    why = "The receiver answered 410 (Gone)."
    disable = update(WebhookEndpoint).where(*this).values(enabled=False, disabled_reason=why)
    disabled = connection.scalar(disable.returning(col(WebhookEndpoint.id)))
    if disabled is not None:
        hold_deliveries_of_disabled(connection, col(Delivery.endpoint_id) == disabled)
    return disabled is not None


def _add_dead_letter(
    connection: Connection, owner: str, delivery: DeliveryRecord, job_id: uuid.UUID, last: Answered
) -> None:
    outcome = f"status {last.status}" if last.status is not None else f"error {last.error}"
    error = DeliveryFailed(f"Attempts: {delivery.failures + 1}. The last one ended with {outcome}.")
    connection.execute(
        insert(DeadLetter).values(
            id=uuid7(), owner=owner, job_id=job_id, delivery_id=delivery.id, attempt=delivery.attempt,
            error=error.problem(),
        )
    )  # fmt: skip
    if delivery.endpoint_id is None:
        _change_views(connection, [job_id])


def _change_views(connection: Connection, job_ids: Select[uuid.UUID | None] | Sequence[uuid.UUID]) -> None:
    """Give jobs a new version, because the answer for a job of `POST /api/process` shows whether its webhook failed."""
    connection.execute(update(Job).where(col(Job.id).in_(job_ids)).values(version=Job.version + 1))


def _replay(connection: Connection, delivery_ids: Sequence[uuid.UUID]) -> list[uuid.UUID]:
    """Return ended deliveries to the queue, and close their dead letters."""
    mine = select(col(Delivery.job_id)).where(col(Delivery.id).in_(delivery_ids), col(Delivery.endpoint_id).is_(None))
    _change_views(connection, mine)
    letters = [col(DeadLetter.delivery_id).in_(delivery_ids)]
    move_letters(connection, DeadLetterState.REDRIVING, letters)
    move_letters(connection, DeadLetterState.REDRIVEN, letters)
    return send_again(connection, delivery_ids)


def _held(delivery_id: uuid.UUID, attempt: int) -> list[ColumnElement[bool]]:
    """Return the conditions that are true while an attempt of a delivery is current."""
    return [
        col(Delivery.id) == delivery_id,
        col(Delivery.attempt) == attempt,
        col(Delivery.state) == DeliveryState.SENDING,
    ]


def _or_lost(state: DeliveryState | None, attempted: Attempted) -> DeliveryState | LeaseLost:
    return state or LeaseLost(f"delivery {attempted.delivery_id}, attempt {attempted.attempt}")


def _selected(owner: str, selection: DeliverySelection) -> list[ColumnElement[bool]]:
    """Return the conditions that the selected deliveries of an owner meet."""
    chosen = {
        Delivery.id: selection.id,
        Delivery.job_id: selection.job,
        Delivery.endpoint_id: selection.endpoint,
        Delivery.event: selection.event,
        Delivery.state: selection.state,
    }
    return [
        col(Delivery.owner) == owner,
        *(col(column) == value for column, value in chosen.items() if value is not None),
    ]


def _not_found(delivery_id: uuid.UUID) -> NotFound:
    return NotFound(f"There is no delivery {delivery_id}.")
