"""The outbox of webhooks: inserts a delivery for each event and each receiver, in the transaction of the event.

So a delivery exists if and only if its event happened. The couriers take deliveries from the outbox
(`delivery_store.py`).
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Text, bindparam, insert, select
from sqlmodel import col
from uuid6 import uuid7

from pixtools.database.rows import group
from pixtools.database.tables import Delivery, Job, WebhookEndpoint
from pixtools.database.transitions import steps_of
from pixtools.outbound.targets import parse_target
from pixtools.states import JobState
from pixtools.webhooks.events import JOB_EVENTS, Event, dead_letter_data, job_data

RECEIVERS_OF_JOB = (
    col(Job.owner),
    col(Job.webhook_url),
    select(WebhookEndpoint).where(col(WebhookEndpoint.owner) == col(Job.owner)).correlate(Job).exists(),
)
"""Columns of a job: its owner, its `webhook_url`, and whether the owner has an endpoint.

`announce_ends` needs them. Most jobs have no receiver, and then no further query is necessary.
"""

# The lock prevents changes of these endpoints until the transaction ends. Otherwise a new delivery could have an old
# URL.
_ENDPOINTS = (
    select(col(WebhookEndpoint.owner), col(WebhookEndpoint.id), col(WebhookEndpoint.url))
    .where(
        col(WebhookEndpoint.owner).in_(bindparam("owners", expanding=True)),
        col(WebhookEndpoint.enabled),
        bindparam("event", type_=Text()) == col(WebhookEndpoint.events).any_(),
    )
    .order_by(col(WebhookEndpoint.id))
    .with_for_update(read=True)
)
_INSERT = insert(Delivery)

_Receiver = tuple[uuid.UUID | None, str]  # the id of an endpoint, or None for the `webhook_url` of a job; and its URL


def announce_ends(connection: Connection, state: JobState, ended: Sequence[Sequence[Any]]) -> None:
    """Insert the deliveries for jobs that have ended in `state`.

    Each of `ended` has the id of a job, and then the columns of `RECEIVERS_OF_JOB`.
    """
    watched = [row for row in ended if row[2] is not None or row[3]]
    if not watched:
        return
    event = JOB_EVENTS[state]
    endpoints = _endpoints(connection, event, {owner for _, owner, _, has_endpoint in watched if has_endpoint})
    receivers: dict[uuid.UUID, list[_Receiver]] = {
        job_id: [*([(None, url)] if url is not None else []), *endpoints[owner]] for job_id, owner, url, _ in watched
    }
    steps = steps_of(connection, [job_id for job_id, found in receivers.items() if found])
    insert_deliveries(
        connection,
        [
            _delivery(owner, event, job_id, receiver, data)
            for job_id, owner, _, _ in watched
            if receivers[job_id]
            for data in [job_data(job_id, state, steps[job_id])]
            for receiver in receivers[job_id]
        ],
    )


def announce_dead_letter(
    connection: Connection, owner: str, letter_id: uuid.UUID, job_id: uuid.UUID, step: str, problem: Mapping[str, Any]
) -> None:
    """Insert the deliveries for a new dead letter of a step."""
    data = dead_letter_data(letter_id, job_id, step, problem)
    endpoints = _endpoints(connection, Event.DEAD_LETTER_CREATED, {owner})[owner]
    insert_deliveries(
        connection,
        [_delivery(owner, Event.DEAD_LETTER_CREATED, job_id, receiver, data) for receiver in endpoints],
    )


def delivery_of_test(owner: str, endpoint_id: uuid.UUID, url: str) -> dict[str, Any]:
    """Return the row of a test of an endpoint."""
    return _delivery(owner, Event.TEST, None, (endpoint_id, url), {"endpoint_id": str(endpoint_id)})


def insert_deliveries(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert deliveries that wait for a courier."""
    if rows:
        connection.execute(_INSERT, rows)


def _endpoints(connection: Connection, event: Event, owners: Collection[str]) -> Mapping[str, list[_Receiver]]:
    """Return the endpoints that have chosen an event. The keys are their owners."""
    if not owners:
        return group(())
    rows = connection.execute(_ENDPOINTS, {"owners": sorted(owners), "event": event})
    return group((owner, (endpoint_id, url)) for owner, endpoint_id, url in rows)


def _delivery(
    owner: str, event: Event, job_id: uuid.UUID | None, receiver: _Receiver, data: Mapping[str, Any]
) -> dict[str, Any]:
    endpoint_id, url = receiver
    return {
        "id": uuid7(),
        "owner": owner,
        "event": event,
        "job_id": job_id,
        "endpoint_id": endpoint_id,
        "url": url,
        "destination": parse_target(url).destination,
        "data": data,
    }
