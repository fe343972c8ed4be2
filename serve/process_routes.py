"""The HTTP route of the first PixTools, whose clients work unchanged."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from serve.job_routes import IdempotencyKey, JobRoutes, Prefer
from serve.problems import responses
from serve.process_answers import ProcessJobAnswer
from serve.upload_form import PROCESS_UPLOAD_FORM
from serve.uploads import PROCESS_FORM


@dataclass(frozen=True)
class ProcessRoutes:
    """The route `POST /api/process`. The OpenAPI document contains its docstring."""

    jobs: JobRoutes

    def router(self) -> APIRouter:
        """Return the table of this route."""
        router = APIRouter(tags=["jobs"])
        router.add_api_route(
            "/api/process",
            self.process,
            methods=["POST"],
            status_code=202,
            response_model=ProcessJobAnswer,
            responses=responses(400, 409, 413, 415, 422, 503),
            openapi_extra=PROCESS_UPLOAD_FORM,
            summary="Submit an image as clients of the first PixTools do",
        )
        return router

    async def process(
        self,
        request: Request,
        idempotency_key: IdempotencyKey = None,  # noqa: ARG002 (only for the OpenAPI document)
        prefer: Prefer = None,  # noqa: ARG002 (only for the OpenAPI document)
    ) -> Response:
        """The form is more lenient than that of `POST /api/jobs`. Read the job at `GET /api/jobs/{job_id}`.

        With both sides, `resize` fits the picture inside them without distortion. A conversion to the format of the
        source is refused.
        """
        return await self.jobs.accept(request, PROCESS_FORM)
