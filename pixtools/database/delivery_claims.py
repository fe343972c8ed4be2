"""The SQL that claims deliveries. Destinations take turns, so that a slow or dead one does not delay the others."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    Interval,
    Uuid,
    bindparam,
    case,
    column,
    func,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, TEXT
from sqlmodel import col

from pixtools.database.rows import DELIVERY
from pixtools.database.tables import Delivery, Job, WebhookEndpoint, WebhookSecret
from pixtools.states import DELIVERY_MOVES, DeliveryState, states_before
from pixtools.webhooks.records import ClaimedDelivery

_SPARE = 20  # further candidates, because other couriers may have locked some of the candidates
_WINDOW = 500  # destinations that one claim looks at, because anybody can name thousands of receivers

# Walks through the index from one destination to the next. So the cost depends on the number of destinations, and not
# on the number of their deliveries.
_DESTINATIONS = text("""
WITH RECURSIVE place AS (
    (
        SELECT destination, 1 AS number FROM delivery
        WHERE state = 'waiting' AND destination > :after ORDER BY destination LIMIT 1
    )
    UNION ALL
    SELECT following.destination, place.number + 1 FROM place CROSS JOIN LATERAL (
        SELECT destination FROM delivery
        WHERE state = 'waiting' AND destination > place.destination ORDER BY destination LIMIT 1
    ) AS following
    WHERE place.number < :window
)
SELECT destination FROM place ORDER BY number
""")

# - `candidate` takes from each destination the deliveries that have waited longest, as many as it has places, and then
#   the destinations in turn.
# - The last SELECT locks the deliveries, and skips those that another courier has locked. It repeats the conditions,
#   because Postgres checks them again for a delivery that changed since the query began.
_NEXT = """
WITH candidate AS (
    SELECT due.id, due.next_at, due.position
    FROM unnest(:destinations, :rooms) AS place (destination, room) CROSS JOIN LATERAL (
        SELECT id, next_at, row_number() OVER (ORDER BY next_at) AS position FROM delivery
        WHERE state = 'waiting' AND delivery.destination = place.destination AND next_at <= now()
        ORDER BY next_at LIMIT place.room
    ) AS due
    ORDER BY position, next_at LIMIT :candidates
)
SELECT delivery.id FROM candidate JOIN delivery ON delivery.id = candidate.id
WHERE delivery.state = 'waiting' AND delivery.next_at <= now()
ORDER BY candidate.position, candidate.next_at LIMIT :max_deliveries
FOR UPDATE OF delivery SKIP LOCKED
"""

_next = (
    text(_NEXT)
    .bindparams(bindparam("destinations", type_=ARRAY(TEXT)), bindparam("rooms", type_=ARRAY(Integer())))
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
    connection: Connection, courier: str, limit: int, room: int, taken: Mapping[str, int], lease: timedelta, after: str
) -> tuple[list[ClaimedDelivery], str]:
    """Move at most `limit` waiting deliveries to the state sending. For the rest see DeliveryStore.claim."""
    found = connection.scalars(_DESTINATIONS, {"after": after, "window": _WINDOW}).all()
    places = {destination: room - taken.get(destination, 0) for destination in found}
    places = {destination: free for destination, free in places.items() if free > 0}
    following = found[-1] if len(found) == _WINDOW else ""
    if not places:
        return [], following
    values = {
        "courier": courier,
        "lease": lease,
        "destinations": list(places),
        "rooms": list(places.values()),
        "candidates": limit + _SPARE,
        "max_deliveries": limit,
    }
    claimed = [
        ClaimedDelivery(
            record=DELIVERY.record(rest),
            owner=owner,
            include_urls=include_urls,
            is_process=is_process,
            secrets=tuple(secret for secret in (secret, previous) if secret is not None),
        )
        for include_urls, is_process, secret, previous, owner, *rest in connection.execute(_CLAIM, values)
    ]
    return claimed, following
