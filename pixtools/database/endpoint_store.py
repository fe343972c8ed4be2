"""The endpoint store: the SQL that registers, changes and deletes the receivers of webhooks.

Each public method is one transaction. Every method raises DatabaseDown if the database does not answer, and NotFound if
the owner has no such endpoint.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Text, bindparam, delete, func, insert, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlmodel import col
from uuid6 import uuid7

from pixtools.database import outbox
from pixtools.database.connection import Database
from pixtools.database.delivery_claims import valid_previous
from pixtools.database.rows import ENDPOINT
from pixtools.database.tables import Delivery, WebhookEndpoint, WebhookSecret
from pixtools.database.transitions import hold_deliveries_of_disabled, move_deliveries, readdress
from pixtools.errors import NotFound, TooManyEndpoints
from pixtools.states import DELIVERY_OPEN, DeliveryState
from pixtools.webhooks.records import EndpointRecord

MAX_ENDPOINTS = 16
"""The largest number of endpoints of an owner. The limit bounds the deliveries that one event causes."""


# The number is arbitrary. It separates these advisory locks from those of other code.
_LOCK = select(func.pg_advisory_xact_lock(7_105_923, func.hashtext(bindparam("owner", type_=Text()))))


class EndpointStore:
    """The registered receivers in one database."""

    def __init__(self, database: Database) -> None:
        self._transaction = database.transaction
        self._reading = database.reading

    def create(self, owner: str, fields: Mapping[str, Any], secret: bytes) -> EndpointRecord:
        """Register an endpoint. `fields` are columns, and `secret` is encrypted. Raises TooManyEndpoints."""
        count = select(func.count()).select_from(WebhookEndpoint).where(col(WebhookEndpoint.owner) == owner)
        statement = (
            insert(WebhookEndpoint)
            .values(id=uuid7(), owner=owner, secret=secret, **fields)
            .returning(*ENDPOINT.columns)
        )
        with self._transaction() as connection:
            connection.execute(_LOCK, {"owner": owner})  # so that two requests at a time do not exceed the limit
            if (connection.scalar(count) or 0) >= MAX_ENDPOINTS:
                raise TooManyEndpoints(f"At most {MAX_ENDPOINTS} endpoints are possible. Delete one, or change one.")
            return ENDPOINT.record(connection.execute(statement).one())

    def list_endpoints(self, owner: str) -> list[EndpointRecord]:
        """Return the endpoints of an owner, the newest first."""
        query = (
            select(*ENDPOINT.columns)
            .where(col(WebhookEndpoint.owner) == owner)
            .order_by(col(WebhookEndpoint.id).desc())
        )
        with self._reading() as connection:
            return [ENDPOINT.record(row) for row in connection.execute(query)]

    def get(self, owner: str, endpoint_id: uuid.UUID) -> EndpointRecord:
        """Return an endpoint."""
        with self._reading() as connection:
            return _get(connection, owner, endpoint_id)

    def change(self, owner: str, endpoint_id: uuid.UUID, fields: Mapping[str, Any]) -> EndpointRecord:
        """Change columns of an endpoint.

        A new URL also applies to deliveries that have not ended. A request that is on its way still goes to the old
        URL. If the endpoint is disabled, its waiting deliveries are held. If it is enabled, its held deliveries wait
        for a courier again.
        """
        values = dict(fields)
        if "enabled" in values:
            values["disabled_reason"] = None
        with self._transaction() as connection:
            if values:
                connection.execute(update(WebhookEndpoint).where(*_is(owner, endpoint_id)).values(values))
            endpoint = _get(connection, owner, endpoint_id)
            mine = col(Delivery.endpoint_id) == endpoint_id
            if "url" in values:
                readdress(connection, endpoint_id, endpoint.url, col(Delivery.state).in_(DELIVERY_OPEN))
            if endpoint.enabled:
                held = col(Delivery.state) == DeliveryState.HELD
                move_deliveries(connection, DeliveryState.WAITING, [mine, held], next_at=func.now())
            else:
                hold_deliveries_of_disabled(connection, mine, col(Delivery.state).in_(DELIVERY_OPEN))
            return endpoint

    def delete(self, owner: str, endpoint_id: uuid.UUID) -> None:
        """Delete an endpoint with its deliveries."""
        statement = delete(WebhookEndpoint).where(*_is(owner, endpoint_id)).returning(col(WebhookEndpoint.id))
        with self._transaction() as connection:
            if connection.execute(statement).first() is None:
                raise _not_found(endpoint_id)

    def rotate(self, owner: str, endpoint_id: uuid.UUID, secret: bytes, overlap: timedelta) -> EndpointRecord:
        """Replace the secret of an endpoint. The previous one also signs for `overlap`."""
        with self._transaction() as connection:
            connection.execute(
                update(WebhookEndpoint)
                .where(*_is(owner, endpoint_id))
                .values(
                    secret=secret,
                    previous_secret=WebhookEndpoint.secret,
                    previous_until=func.now() + overlap,
                )
            )
            return _get(connection, owner, endpoint_id)

    def rotate_of_jobs(self, owner: str, secret: bytes, overlap: timedelta) -> datetime | None:
        """Replace the secret for the `webhook_url` of the owner's jobs. The previous one also signs for `overlap`.

        Return when the previous secret ends, or None if there was none.
        """
        statement = upsert(WebhookSecret).values(owner=owner, secret=secret)
        replaced = statement.on_conflict_do_update(
            index_elements=["owner"],
            set_={
                "secret": statement.excluded.secret,
                "previous_secret": WebhookSecret.secret,
                "previous_until": func.now() + overlap,
            },
        ).returning(col(WebhookSecret.previous_until))
        with self._transaction() as connection:
            until: datetime | None = connection.execute(replaced).scalar_one()
            return until

    def secret_of_owner(self, owner: str, new: bytes) -> list[bytes]:
        """Return the encrypted secrets for the `webhook_url` of an owner's jobs. The first call stores `new`."""
        with self._transaction() as connection:
            connection.execute(upsert(WebhookSecret).values(owner=owner, secret=new).on_conflict_do_nothing())
            query = select(col(WebhookSecret.secret), valid_previous(WebhookSecret)).where(
                col(WebhookSecret.owner) == owner
            )
            return [secret for secret in connection.execute(query).one() if secret is not None]

    def test(self, owner: str, endpoint_id: uuid.UUID) -> uuid.UUID:
        """Insert a test of an endpoint, even if the endpoint is disabled. Return the id of the delivery."""
        with self._transaction() as connection:
            endpoint = _get(connection, owner, endpoint_id)
            row = outbox.delivery_of_test(owner, endpoint.id, endpoint.url)
            outbox.insert_deliveries(connection, [row])
            test_id: uuid.UUID = row["id"]
            return test_id


def _get(connection: Connection, owner: str, endpoint_id: uuid.UUID) -> EndpointRecord:
    row = connection.execute(select(*ENDPOINT.columns).where(*_is(owner, endpoint_id))).one_or_none()
    if row is None:
        raise _not_found(endpoint_id)
    return ENDPOINT.record(row)


def _is(owner: str, endpoint_id: uuid.UUID) -> list[ColumnElement[bool]]:
    return [col(WebhookEndpoint.id) == endpoint_id, col(WebhookEndpoint.owner) == owner]


def _not_found(endpoint_id: uuid.UUID) -> NotFound:
    return NotFound(f"There is no webhook endpoint {endpoint_id}.")
