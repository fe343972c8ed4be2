"""The HTTP route of the archive of a job."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from fastapi import APIRouter
from starlette.responses import RedirectResponse, Response

from serve.archives import Archives
from serve.owner import PUBLIC_OWNER
from serve.problems import responses


@dataclass(frozen=True)
class ArchiveRoutes:
    """The route `GET /api/jobs/{job_id}/archive`. The OpenAPI document contains its docstring."""

    archives: Archives

    def router(self) -> APIRouter:
        """Return the table of this route."""
        router = APIRouter(tags=["jobs"])
        router.add_api_route(
            "/api/jobs/{job_id}/archive",
            self.archive,
            methods=["GET"],
            status_code=307,
            response_class=RedirectResponse,
            responses={
                307: {"description": "The header `Location` has the download URL"},
                **responses(404, 409, 422, 503),
            },
            summary="Download all files of a job as one ZIP",
        )
        return router

    async def archive(self, job_id: uuid.UUID) -> Response:
        """The archive is made at the first request, by a job that appears in the list of jobs.

        If this takes more than some seconds, the answer is 503 with `Retry-After`. 409 means that the job has not ended
        or has no files.
        """
        return RedirectResponse(await self.archives.url(PUBLIC_OWNER, job_id), 307)
