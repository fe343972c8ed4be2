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
    any_,
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

_WINDOW = 500  # destinations that one claim looks at, because anybody can name thousands of receivers

# Walks through the index from one destination to the next. So the cost depends on the number of destinations, and not
# on the number of their deliveries. `next_at` is the earliest one of the destination.
_DESTINATIONS = text("""
WITH RECURSIVE place AS (
    (
        SELECT destination, next_at, 1 AS number FROM delivery
        WHERE state = 'waiting' AND destination > :after ORDER BY destination, next_at LIMIT 1
    )
    UNION ALL
    SELECT following.destination, following.next_at, place.number + 1 FROM place CROSS JOIN LATERAL (
        SELECT destination, next_at FROM delivery
        WHERE state = 'waiting' AND destination > place.destination ORDER BY destination, next_at LIMIT 1
    ) AS following
    WHERE place.number < :window
)
SELECT destination, next_at <= now() FROM place ORDER BY number
""")

# Takes from each destination the deliveries that have waited longest, as many as it has places. Skips those that
# another courier has locked.
_NEXT = """
SELECT due.id FROM unnest(:destinations, :rooms) AS place (destination, room) CROSS JOIN LATERAL (
    SELECT id FROM delivery
    WHERE state = 'waiting' AND delivery.destination = place.destination AND next_at <= now()
    ORDER BY next_at LIMIT place.room FOR UPDATE SKIP LOCKED
) AS due
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
        # This is an array and not a join. For a join, Postgres expects hundreds of ids, and reads the whole table.
        col(Delivery.id) == any_(func.array(select(_next.c.id).scalar_subquery())),
        col(Delivery.state).in_(states_before(DELIVERY_MOVES, DeliveryState.SENDING)),
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
    found = connection.execute(_DESTINATIONS, {"after": after, "window": _WINDOW}).all()
    following = found[-1][0] if len(found) == _WINDOW else ""
    places: dict[str, int] = {}
    for destination, is_due in found:
        free = min(room - taken.get(destination, 0), limit)
        if not is_due or free <= 0:
            continue
        if sum(places.values()) + free > limit:
            following = list(places)[-1]
            break
        places[destination] = free
    if not places:
        return [], following
    values = {"courier": courier, "lease": lease, "destinations": list(places), "rooms": list(places.values())}
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
    return sorted(claimed, key=lambda each: (each.record.next_at, each.record.id)), following
