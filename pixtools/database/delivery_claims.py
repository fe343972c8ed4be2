"""The statement that takes the next deliveries, so that a slow or dead destination does not delay the others."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from sqlalchemy import ColumnElement, Connection, Interval, Uuid, bindparam, case, column, func, select, text, update
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TEXT
from sqlmodel import col

from pixtools.database.rows import DELIVERY
from pixtools.database.tables import Delivery, Job, WebhookEndpoint, WebhookSecret
from pixtools.states import DELIVERY_MOVES, DeliveryState, states_before
from pixtools.webhooks.records import ClaimedDelivery

_SPARE = 20  # further candidates, because other couriers may have locked some of the candidates
_WINDOW = 1_000  # deliveries among which a claim chooses

# - `due` takes the 1,000 deliveries that have waited longest. It leaves out destinations whose places are all taken.
#   The limit bounds the cost of a claim, because anybody can name thousands of dead receivers.
# - `placed` gives each delivery its position among those of its destination.
# - `candidate` takes the destinations in turn.
# - The last SELECT locks the deliveries, and skips those that another courier has locked. It repeats the conditions,
#   because Postgres checks them again for a delivery that changed since the query began.
_NEXT = """
WITH due AS (
    SELECT id, destination, next_at FROM delivery
    WHERE state = 'waiting' AND next_at <= now() AND destination <> ALL(:full)
    ORDER BY next_at LIMIT :window
),
placed AS (
    SELECT id, next_at, row_number() OVER (PARTITION BY destination ORDER BY next_at) AS position,
        :room - coalesce((:taken ->> destination)::integer, 0) AS places
    FROM due
),
candidate AS (
    SELECT id, next_at, position FROM placed WHERE position <= places ORDER BY position, next_at LIMIT :candidates
)
SELECT delivery.id FROM candidate JOIN delivery ON delivery.id = candidate.id
WHERE delivery.state = 'waiting' AND delivery.next_at <= now()
ORDER BY candidate.position, candidate.next_at LIMIT :max_deliveries
FOR UPDATE OF delivery SKIP LOCKED
"""

_next = (
    text(_NEXT)
    .bindparams(bindparam("taken", type_=JSONB), bindparam("full", type_=ARRAY(TEXT)))
    .columns(column("id", Uuid))
    .cte("next")
)
_claimed = (
    update(Delivery)
    .where(
        col(Delivery.id) == _next.c.id, col(Delivery.state).in_(states_before(DELIVERY_MOVES, DeliveryState.SENDING))
    )
    .values(
        state=DeliveryState.SENDING,
        attempt=Delivery.attempt + 1,
        courier=bindparam("courier"),
        lease_until=func.now() + bindparam("lease", type_=Interval()),
    )
    .returning(col(Delivery.owner), *DELIVERY.columns)
    .cte("claimed")
)


def valid_previous(table: type[WebhookEndpoint | WebhookSecret]) -> ColumnElement[bytes | None]:
    """Return the expression for the previous secret in `table`: NULL unless the secret still signs."""
    return case((col(table.previous_until) > func.now(), col(table.previous_secret)))


_is_registered = _claimed.c.endpoint_id.is_not(None)
_CLAIM = (
    select(
        func.coalesce(col(WebhookEndpoint.include_urls), False),
        func.coalesce(col(Job.is_process), False) & ~_is_registered,
        case((_is_registered, col(WebhookEndpoint.secret)), else_=col(WebhookSecret.secret)),
        case((_is_registered, valid_previous(WebhookEndpoint)), else_=valid_previous(WebhookSecret)),
        *_claimed.c,
    )
    .select_from(_claimed)
    .outerjoin(WebhookEndpoint, col(WebhookEndpoint.id) == _claimed.c.endpoint_id)
    .outerjoin(WebhookSecret, col(WebhookSecret.owner) == _claimed.c.owner)
    .outerjoin(Job, col(Job.id) == _claimed.c.job_id)
)


def claim_deliveries(
    connection: Connection, courier: str, limit: int, room: int, taken: Mapping[str, int], lease: timedelta
) -> list[ClaimedDelivery]:
    """Move at most `limit` waiting deliveries to the state sending. For `room` and `taken` see DeliveryStore.claim."""
    values = {
        "courier": courier,
        "lease": lease,
        "room": room,
        "taken": dict(taken),
        "full": [destination for destination, places in taken.items() if places >= room],
        "window": _WINDOW,
        "candidates": limit + _SPARE,
        "max_deliveries": limit,
    }
    return [
        ClaimedDelivery(
            record=DELIVERY.record(rest),
            owner=owner,
            include_urls=include_urls,
            is_process=is_process,
            secrets=tuple(secret for secret in (secret, previous) if secret is not None),
        )
        for include_urls, is_process, secret, previous, owner, *rest in connection.execute(_CLAIM, values)
    ]
