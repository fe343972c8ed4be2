"""The HTTP routes of the catalog and of the health checks."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import APIRouter, Response

from serve.catalog import Catalog
from serve.health import Health, HealthAnswer, Readiness
from serve.metrics import CONTENT_TYPE, exposition
from serve.problems import responses


@dataclass(frozen=True)
class ServiceRoutes:
    """The routes of the catalog and of the health checks. The OpenAPI document contains the docstring of each route."""

    catalog: Catalog
    checks: Health

    def router(self) -> APIRouter:
        """Return the table of these routes."""
        router = APIRouter()
        router.add_api_route(
            "/api/operations",
            self.operations,
            methods=["GET"],
            tags=["jobs"],
            summary="List the operations and their parameters, and the limits of a request",
        )
        router.add_api_route(
            "/api/livez", self.live, methods=["GET"], tags=["service"], summary="Check that the process answers"
        )
        router.add_api_route(
            "/api/readyz",
            self.ready,
            methods=["GET"],
            tags=["service"],
            responses=responses(503),
            summary="Check that jobs can be accepted",
        )
        router.add_api_route(
            "/api/health",
            self.health,
            methods=["GET"],
            tags=["service"],
            responses=responses(503),
            summary="Show the state of each component and the backlog",
        )
        router.add_api_route("/metrics", self.metrics, methods=["GET"], include_in_schema=False)
        return router

    def operations(self) -> Catalog:
        """The answer contains everything that a form or a script needs to build jobs."""
        return self.catalog

    async def live(self) -> dict[str, bool]:
        """This check does not test other components."""
        return {"live": True}

    async def ready(self) -> Readiness:
        """503 means that the database or the object storage is down. If only Redis is down, the answer is 200."""
        return await self.checks.require_ready()

    async def metrics(self) -> Response:
        """The state of the service for Prometheus."""
        return Response(exposition(await self.checks.report()), media_type=CONTENT_TYPE)

    async def health(self) -> HealthAnswer:
        """In `dispatchers`, null stands for a dispatcher that does not answer."""
        return await self.checks.report()
