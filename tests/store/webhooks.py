"""Helpers for store tests of webhooks: endpoints, claims of deliveries, and results of attempts."""

from __future__ import annotations

from datetime import timedelta

from pixtools.database.delivery_store import Attempted, DeliveryStore
from pixtools.database.endpoint_store import EndpointStore
from pixtools.states import DeliveryState
from pixtools.webhooks.events import JOB_EVENTS
from pixtools.webhooks.records import Answered, ClaimedDelivery, DeliveryRecord, DeliverySelection, EndpointRecord

URL = "https://receiver.example/hook"
OK = Answered(status=204, error=None, ms=12)
BROKEN = Answered(status=500, error=None, ms=12, answer="oops", destination_failed=True)
GONE = Answered(status=410, error=None, ms=3)


def registered(
    endpoints: EndpointStore, owner: str = "ann", *, secret: bytes = b"secret", **fields: object
) -> EndpointRecord:
    """Register an endpoint for the ends of jobs. `secret` should be encrypted if a courier will read it."""
    usual = {
        "url": URL,
        "events": list(JOB_EVENTS.values()),
        "description": "",
        "enabled": True,
        "include_urls": False,
    }
    return endpoints.create(owner, usual | fields, secret)


def claim_all(deliveries: DeliveryStore, courier: str = "c0", **options: object) -> list[ClaimedDelivery]:
    """Claim all deliveries that are due."""
    usual = {"limit": 1_000, "room": 1_000, "taken": {}, "lease": timedelta(seconds=60)}
    return deliveries.claim(courier, **(usual | options))[0]


def attempted(claimed: ClaimedDelivery, result: Answered = OK) -> Attempted:
    return Attempted(claimed.record.id, claimed.record.attempt, claimed.record.url, result)


def listed(deliveries: DeliveryStore, owner: str = "ann", **fields: object) -> list[DeliveryRecord]:
    """Return the deliveries of an owner, the oldest first."""
    return deliveries.page(owner, DeliverySelection(**fields), before=None, limit=10_000)[::-1]


def delivery_states(deliveries: DeliveryStore, owner: str = "ann") -> list[DeliveryState]:
    return [delivery.state for delivery in listed(deliveries, owner)]
