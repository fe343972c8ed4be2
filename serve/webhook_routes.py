"""The HTTP routes of webhook endpoints and deliveries."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from pixtools.states import DeliveryState
from pixtools.webhooks.events import Event
from pixtools.webhooks.records import DeliverySelection
from serve.answers import json_response
from serve.owner import PUBLIC_OWNER
from serve.problems import responses
from serve.webhooks import (
    DeliveryDetails,
    DeliveryList,
    EndpointAnswer,
    EndpointChange,
    EndpointForm,
    EndpointList,
    NewEndpointAnswer,
    ReplayAnswer,
    ReplayForm,
    SecretAnswer,
    Webhooks,
)


@dataclass(frozen=True)
class WebhookRoutes:
    """The routes below `/api/webhooks` and `/api/deliveries`. The OpenAPI document contains the docstring of each."""

    webhooks: Webhooks

    def router(self) -> APIRouter:
        """Return the table of these routes."""
        router = APIRouter(prefix="/api", tags=["webhooks"])
        for method, path, route, status, model, problems, summary in (
            ("GET", "/webhooks", self.list_endpoints, 200, EndpointList, (503,), "List the webhook endpoints"),
            (
                "POST", "/webhooks", self.create, 201, NewEndpointAnswer, (409, 422, 503),
                "Register a webhook endpoint; the answer contains its secret",
            ),
            ("GET", "/webhooks/{webhook_id}", self.read, 200, EndpointAnswer, (404, 422, 503), "Read an endpoint"),
            ("PATCH", "/webhooks/{webhook_id}", self.change, 200, EndpointAnswer, (404, 422, 503), "Change one"),
            ("DELETE", "/webhooks/{webhook_id}", self.delete, 204, None, (404, 422, 503), "Delete an endpoint"),
            (
                "POST", "/webhooks/{webhook_id}/rotate-secret", self.rotate, 200, SecretAnswer, (404, 422, 503),
                "Replace the secret of an endpoint",
            ),
            (
                "POST", "/webhooks/{webhook_id}/test", self.test, 202, DeliveryDetails, (404, 422, 503),
                "Send a test to an endpoint",
            ),
            (
                "POST", "/webhook-secret/rotate", self.rotate_of_jobs, 200, SecretAnswer, (503,),
                "Replace the secret that signs the webhooks of the field `webhook_url`",
            ),
            ("GET", "/deliveries", self.list_deliveries, 200, DeliveryList, (422, 503), "List deliveries"),
            (
                "POST", "/deliveries/replay", self.replay_selected, 202, ReplayAnswer, (422, 503),
                "Send all selected deliveries again, at a limited rate",
            ),
            (
                "GET", "/deliveries/{delivery_id}", self.delivery, 200, DeliveryDetails, (404, 422, 503),
                "Read a delivery, with its attempts",
            ),
            (
                "POST", "/deliveries/{delivery_id}/replay", self.replay, 202, DeliveryDetails, (404, 409, 422, 503),
                "Send a delivery again",
            ),
        ):  # fmt: skip
            router.add_api_route(
                path,
                route,
                methods=[method],
                status_code=status,
                response_model=model,
                responses=responses(*problems),
                summary=summary,
            )
        return router

    def list_endpoints(self) -> Response:
        """Each endpoint shows the circuit breaker of its server."""
        return json_response(self.webhooks.list_endpoints(PUBLIC_OWNER))

    def create(self, form: EndpointForm) -> Response:
        """The secret is shown only once. Receivers use it to verify signatures, as Standard Webhooks describes."""
        answer = self.webhooks.create(PUBLIC_OWNER, form)
        response = json_response(answer, 201)
        response.headers["Location"] = f"/api/webhooks/{answer.id}"
        return response

    def read(self, webhook_id: uuid.UUID) -> Response:
        """The secret is not shown."""
        return json_response(self.webhooks.read(PUBLIC_OWNER, webhook_id))

    def change(self, webhook_id: uuid.UUID, form: EndpointChange) -> Response:
        """Deliveries that have not ended go to the new URL. While an endpoint is disabled, its deliveries are held."""
        return json_response(self.webhooks.change(PUBLIC_OWNER, webhook_id, form))

    def delete(self, webhook_id: uuid.UUID) -> Response:
        """The deliveries of the endpoint are deleted too."""
        self.webhooks.delete(PUBLIC_OWNER, webhook_id)
        return Response(status_code=204)

    def rotate(self, webhook_id: uuid.UUID) -> Response:
        """For 24 hours, each request has two signatures: one with the new secret, and one with the previous secret."""
        return json_response(self.webhooks.rotate(PUBLIC_OWNER, webhook_id))

    def rotate_of_jobs(self) -> Response:
        """For 24 hours, each request has two signatures: one with the new secret, and one with the previous secret."""
        return json_response(self.webhooks.rotate_of_jobs(PUBLIC_OWNER))

    async def test(self, webhook_id: uuid.UUID) -> Response:
        """The event is `webhook.test`. There is one attempt. Read the delivery at `Location` to see its result."""
        return await self._sent(await run_in_threadpool(self.webhooks.test, PUBLIC_OWNER, webhook_id))

    def list_deliveries(
        self,
        job: uuid.UUID | None = None,
        webhook: uuid.UUID | None = None,
        event: Event | None = None,
        state: DeliveryState | None = None,
        cursor: uuid.UUID | None = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
    ) -> Response:
        """Read a delivery by its id to see its data and its attempts."""
        selection = DeliverySelection(job=job, endpoint=webhook, event=event, state=state)
        return json_response(self.webhooks.page(PUBLIC_OWNER, selection, before=cursor, limit=limit))

    def delivery(self, delivery_id: uuid.UUID) -> Response:
        """The id of a delivery is the `webhook-id` of its requests."""
        return json_response(self.webhooks.delivery(PUBLIC_OWNER, delivery_id))

    async def replay(self, delivery_id: uuid.UUID) -> Response:
        """The request has the same `webhook-id` again. 409 means that the delivery has not ended."""
        return await self._sent(await run_in_threadpool(self.webhooks.replay, PUBLIC_OWNER, delivery_id))

    async def replay_selected(self, form: ReplayForm) -> Response:
        """The answer is the number of selected deliveries that have ended: at most 10,000, the oldest ones."""
        answer = await run_in_threadpool(self.webhooks.replay_selected, PUBLIC_OWNER, form.selection())
        await self.webhooks.wake_couriers()
        return json_response(answer, 202)

    async def _sent(self, delivery: DeliveryDetails) -> Response:
        await self.webhooks.wake_couriers()
        response = json_response(delivery, 202)
        response.headers["Location"] = f"/api/deliveries/{delivery.id}"
        return response
