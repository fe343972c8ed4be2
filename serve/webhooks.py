"""Webhook endpoints and deliveries in the HTTP API: request forms, response bodies, and the functions of the routes."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, Field, StringConstraints, model_validator

from pixtools.database.delivery_store import DeliveryStore
from pixtools.database.endpoint_store import EndpointStore
from pixtools.errors import Fault
from pixtools.outbound.addresses import AddressPolicy
from pixtools.outbound.targets import MAX_URL_CHARS, BadTarget, parse_target
from pixtools.redis.circuits import Circuits, CircuitStatus
from pixtools.redis.hints import DELIVERIES, Hints
from pixtools.states import DeliveryState
from pixtools.webhooks import signing
from pixtools.webhooks.events import CHOSEN_EVENTS, JOB_EVENTS, Event
from pixtools.webhooks.records import AttemptRecord, DeliveryRecord, DeliverySelection, EndpointRecord
from pixtools.webhooks.vault import Vault
from serve.answers import Time
from serve.form import Form
from serve.problems import invalid_request

SECRET_OVERLAP = timedelta(hours=24)
"""How long the previous secret also signs after a rotation."""

_CHOSEN = tuple(event.value for event in CHOSEN_EVENTS)  # texts, because messages show these values

Url = Annotated[str, StringConstraints(min_length=1, max_length=MAX_URL_CHARS)]
Description = Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
Events = Annotated[
    list[Literal[_CHOSEN]],  # type: ignore[valid-type]
    AfterValidator(lambda events: list(dict.fromkeys(events))),  # without repetitions
    Field(min_length=1, max_length=len(CHOSEN_EVENTS), description="the events that the endpoint gets"),
]


class EndpointForm(Form):
    """A new endpoint."""

    url: Url = Field(description="where the events go: an http or https URL")
    events: Events = Field(default_factory=lambda: [event.value for event in JOB_EVENTS.values()])
    description: Description = Field("", description="a note for people")
    enabled: bool = True
    include_urls: bool = Field(default=False, description="whether the bodies contain download URLs, which expire soon")


class EndpointChange(Form):
    """The new values of an endpoint. Fields that are not sent stay the same."""

    url: Url | None = None
    events: Events | None = None
    description: Description | None = None
    enabled: bool | None = None
    include_urls: bool | None = None


class CircuitAnswer(BaseModel):
    """The circuit breaker of the server behind a URL. While it is open, deliveries wait until `retry_at`."""

    state: Literal["closed", "open", "half-open"]
    failures: int
    retry_at: Time | None


class EndpointAnswer(BaseModel):
    """A registered receiver. `disabled_reason` says why the service disabled it."""

    id: uuid.UUID
    url: str
    events: list[Event]
    description: str
    enabled: bool
    disabled_reason: str | None
    include_urls: bool
    created_at: Time
    previous_secret_until: Time | None
    circuit: CircuitAnswer


class NewEndpointAnswer(EndpointAnswer):
    """A new endpoint with its secret. The secret is shown only once."""

    secret: str


class EndpointList(BaseModel):
    """The endpoints, newest first."""

    webhooks: list[EndpointAnswer]


class SecretAnswer(BaseModel):
    """A new secret, which is shown only once. The previous secret also signs until `previous_secret_until`."""

    secret: str
    previous_secret_until: Time | None


class AttemptAnswer(BaseModel):
    """One attempt of a delivery. `error` is set if no answer arrived. `answer` has the first bytes of the answer."""

    number: int
    at: Time
    ms: int | None
    status: int | None
    error: str | None
    answer: str | None


class DeliveryAnswer(BaseModel):
    """One event for one receiver. `webhook` is null if the receiver is the `webhook_url` of the job.

    `attempts` counts the attempts that have ended.
    """

    id: uuid.UUID
    event: Event
    job: uuid.UUID | None
    webhook: uuid.UUID | None
    url: str
    state: DeliveryState
    attempts: int
    next_attempt_at: Time | None
    created_at: Time
    finished_at: Time | None


class DeliveryDetails(DeliveryAnswer):
    """A delivery with its data and its last 50 attempts, the oldest first."""

    data: dict[str, Any]
    history: list[AttemptAnswer]


class DeliveryList(BaseModel):
    """Deliveries, newest first. `next` is the cursor of the next page, or null on the last page."""

    deliveries: list[DeliveryAnswer]
    next: uuid.UUID | None


class ReplayForm(Form):
    """Selects the ended deliveries that match every given field. `all` selects every ended delivery."""

    job: uuid.UUID | None = Field(None, description="only deliveries about this job")
    webhook: uuid.UUID | None = Field(None, description="only deliveries to this endpoint")
    event: Event | None = None
    state: Literal["delivered", "failed"] | None = None
    all: Literal[True] | None = Field(None, description="every ended delivery")

    @model_validator(mode="after")
    def _selects(self) -> Self:
        # Without this check, a script with an empty variable would replay all deliveries.
        narrowed = any(value is not None for value in (self.job, self.webhook, self.event, self.state))
        if narrowed == bool(self.all):
            raise ValueError("select deliveries by job, webhook, event or state, or by all: true, but not by both")
        return self

    def selection(self) -> DeliverySelection:
        """Return the selection for the store."""
        state = None if self.state is None else DeliveryState(self.state)
        return DeliverySelection(job=self.job, endpoint=self.webhook, event=self.event, state=state)


class ReplayAnswer(BaseModel):
    """The number of deliveries that will be sent again."""

    deliveries: int


@dataclass(frozen=True)
class Webhooks:
    """The functions of the routes. All methods except `wake_couriers` block, so call them in a thread.

    `replays_per_s` is the rate at which one call replays selected deliveries.
    """

    endpoints: EndpointStore
    deliveries: DeliveryStore
    vault: Vault
    policy: AddressPolicy
    circuits: Circuits
    hints: Hints
    replays_per_s: float

    def checked_url(self, url: str, field: str) -> str:
        """Return the URL of a receiver in its usual spelling.

        Raises InvalidRequest with a fault at the field `field`, and WebhooksOff if the service cannot sign webhooks.
        """
        self.vault.require_keys()
        try:
            return parse_target(url, self.policy).url
        except BadTarget as error:
            raise invalid_request([Fault(f"/{field}", str(error))]) from error

    def create(self, owner: str, form: EndpointForm) -> NewEndpointAnswer:
        """Register an endpoint. Raises InvalidRequest, WebhooksOff, TooManyEndpoints and DatabaseDown."""
        fields = form.model_dump() | {"url": self.checked_url(form.url, "body/url")}
        secret = signing.new_secret()
        endpoint = self.endpoints.create(owner, fields, self.vault.encrypt(secret))
        return NewEndpointAnswer(**self._answers([endpoint])[0].model_dump(), secret=secret)

    def list_endpoints(self, owner: str) -> EndpointList:
        """Return the endpoints of an owner."""
        return EndpointList(webhooks=self._answers(self.endpoints.list_endpoints(owner)))

    def read(self, owner: str, endpoint_id: uuid.UUID) -> EndpointAnswer:
        """Return an endpoint. Raises NotFound."""
        return self._answers([self.endpoints.get(owner, endpoint_id)])[0]

    def change(self, owner: str, endpoint_id: uuid.UUID, form: EndpointChange) -> EndpointAnswer:
        """Change an endpoint. Raises NotFound, InvalidRequest and WebhooksOff."""
        fields = {name: value for name, value in form.model_dump(exclude_unset=True).items() if value is not None}
        if form.url is not None:
            fields["url"] = self.checked_url(form.url, "body/url")
        return self._answers([self.endpoints.change(owner, endpoint_id, fields)])[0]

    def delete(self, owner: str, endpoint_id: uuid.UUID) -> None:
        """Delete an endpoint with its deliveries. Raises NotFound."""
        self.endpoints.delete(owner, endpoint_id)

    def rotate(self, owner: str, endpoint_id: uuid.UUID) -> SecretAnswer:
        """Replace the secret of an endpoint. Raises NotFound and WebhooksOff."""
        secret = signing.new_secret()
        endpoint = self.endpoints.rotate(owner, endpoint_id, self.vault.encrypt(secret), SECRET_OVERLAP)
        return SecretAnswer(secret=secret, previous_secret_until=endpoint.previous_until)

    def rotate_of_jobs(self, owner: str) -> SecretAnswer:
        """Replace the secret for the `webhook_url` of jobs. Raises WebhooksOff."""
        secret = signing.new_secret()
        until = self.endpoints.rotate_of_jobs(owner, self.vault.encrypt(secret), SECRET_OVERLAP)
        return SecretAnswer(secret=secret, previous_secret_until=until)

    def test(self, owner: str, endpoint_id: uuid.UUID) -> DeliveryDetails:
        """Send a test to an endpoint. Raises NotFound."""
        return self.delivery(owner, self.endpoints.test(owner, endpoint_id))

    def page(self, owner: str, selection: DeliverySelection, *, before: uuid.UUID | None, limit: int) -> DeliveryList:
        """Return a page of the owner's deliveries, newest first."""
        found = self.deliveries.page(owner, selection, before=before, limit=limit + 1)
        following = found[limit - 1].id if len(found) > limit else None
        return DeliveryList(deliveries=[DeliveryAnswer(**_fields(each)) for each in found[:limit]], next=following)

    def delivery(self, owner: str, delivery_id: uuid.UUID) -> DeliveryDetails:
        """Return a delivery with its attempts. Raises NotFound."""
        delivery, attempts = self.deliveries.get(owner, delivery_id)
        return DeliveryDetails(**_fields(delivery), data=delivery.data, history=[_attempt(each) for each in attempts])

    def replay(self, owner: str, delivery_id: uuid.UUID) -> DeliveryDetails:
        """Send a delivery again. Raises NotFound and DeliveryPending."""
        self.deliveries.replay(owner, delivery_id)
        return self.delivery(owner, delivery_id)

    def replay_selected(self, owner: str, selection: DeliverySelection) -> ReplayAnswer:
        """Send the selected deliveries again, at a limited rate."""
        return ReplayAnswer(deliveries=self.deliveries.replay_selected(owner, selection, self.replays_per_s))

    async def wake_couriers(self) -> None:
        """Tell the couriers that a delivery waits."""
        await self.hints.publish(DELIVERIES, "")

    def _answers(self, endpoints: Sequence[EndpointRecord]) -> list[EndpointAnswer]:
        destinations = {endpoint.id: parse_target(endpoint.url).destination for endpoint in endpoints}
        circuits = self.circuits.statuses(set(destinations.values()))
        return [_endpoint(endpoint, circuits[destinations[endpoint.id]]) for endpoint in endpoints]


def _endpoint(endpoint: EndpointRecord, circuit: CircuitStatus) -> EndpointAnswer:
    return EndpointAnswer(
        id=endpoint.id,
        url=endpoint.url,
        events=list(endpoint.events),
        description=endpoint.description,
        enabled=endpoint.enabled,
        disabled_reason=endpoint.disabled_reason,
        include_urls=endpoint.include_urls,
        created_at=endpoint.created_at,
        previous_secret_until=endpoint.previous_until,
        circuit=CircuitAnswer.model_validate(vars(circuit)),
    )


def _fields(delivery: DeliveryRecord) -> dict[str, Any]:
    waits = delivery.state == DeliveryState.WAITING
    return {
        "id": delivery.id,
        "event": delivery.event,
        "job": delivery.job_id,
        "webhook": delivery.endpoint_id,
        "url": delivery.url,
        "state": delivery.state,
        "attempts": delivery.tries,
        "next_attempt_at": delivery.next_at if waits else None,
        "created_at": delivery.created_at,
        "finished_at": delivery.finished_at,
    }


def _attempt(attempt: AttemptRecord) -> AttemptAnswer:
    return AttemptAnswer(
        number=attempt.number,
        at=attempt.at,
        ms=attempt.ms,
        status=attempt.status,
        error=attempt.error,
        answer=attempt.answer,
    )
