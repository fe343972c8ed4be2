"""The HTTP routes that submit, list, read, follow, cancel and retry jobs."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Header, Query
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from pixtools.blob_store import BlobStore
from pixtools.database.job_store import JobStore
from pixtools.errors import NothingToRetry, PixToolsError
from pixtools.jobs.submission import Accepted
from pixtools.jobs.views import JobView
from pixtools.redis.hints import CANCELLED, CHANGED, Hints, changed
from pixtools.states import JOB_ENDED, JobState
from serve.answers import JobAnswer, JobList, job_list, json_response
from serve.dead_letters import DeadLetters
from serve.intake import Intake
from serve.job_bodies import JobBodies
from serve.owner import PUBLIC_OWNER
from serve.preferences import MAX_WAIT_S, preference_applied, wait_seconds
from serve.problems import responses
from serve.process_answers import ProcessJobAnswer, answer_of
from serve.progress import ProgressFeed
from serve.upload_form import UPLOAD_FORM
from serve.uploads import JOB_FORM, FormKind

Prefer = Annotated[
    str | None,
    Header(description=f"`wait=N`: answer when the job has ended, or after N seconds (at most {MAX_WAIT_S})"),
]


IdempotencyKey = Annotated[
    str | None,
    Header(description="a key that you choose; if you repeat it within 24 hours, no second job is made"),
]


@dataclass(frozen=True)
class JobRoutes:
    """The routes below `/api/jobs`. Each route is one method. The OpenAPI document contains its docstring."""

    intake: Intake
    store: JobStore
    blobs: BlobStore
    bodies: JobBodies
    feed: ProgressFeed
    hints: Hints
    letters: DeadLetters

    def router(self) -> APIRouter:
        """Return the table of these routes."""
        router = APIRouter(prefix="/api/jobs", tags=["jobs"])
        router.add_api_route(
            "",
            self.submit,
            methods=["POST"],
            status_code=202,
            response_model=JobAnswer,
            responses=responses(400, 409, 413, 415, 422, 503),
            openapi_extra=UPLOAD_FORM,
            summary="Submit an image and the steps to run on it",
        )
        router.add_api_route(
            "",
            self.list_jobs,
            methods=["GET"],
            response_model=JobList,
            responses=responses(422, 503),
            summary="List jobs, newest first",
        )
        router.add_api_route(
            "/{job_id}",
            self.read,
            methods=["GET"],
            response_model=JobAnswer | ProcessJobAnswer,
            responses={304: {}, **responses(404, 422, 503)},
            summary="Read a job, with fresh download URLs",
        )
        router.add_api_route(
            "/{job_id}/cancel",
            self.cancel,
            methods=["POST"],
            response_model=JobAnswer,
            responses=responses(404, 409, 422, 503),
            summary="Cancel a job that has not ended; finished results stay",
        )
        router.add_api_route(
            "/{job_id}/retry",
            self.retry,
            methods=["POST"],
            status_code=202,
            response_model=JobAnswer,
            responses=responses(404, 409, 422, 503),
            summary="Run the failed steps of a job again, and the steps that were skipped because of them",
        )
        router.add_api_route(
            "/{job_id}/events",
            self.events,
            methods=["GET"],
            response_class=StreamingResponse,
            responses={200: {"content": {"text/event-stream": {}}}, 204: {}, **responses(404, 422, 503)},
            summary="Follow a job by server-sent events; each event contains the whole job",
        )
        return router

    async def submit(
        self,
        request: Request,
        idempotency_key: IdempotencyKey = None,  # noqa: ARG002 (only for the OpenAPI document)
        prefer: Prefer = None,  # noqa: ARG002 (only for the OpenAPI document)
    ) -> Response:
        """Send either `steps` or `operations`. The service stores the job before it answers.

        With `Prefer: wait=N`, the body comes when the job has ended, or after N seconds. It shows the job at that time.
        """
        return await self.accept(request, JOB_FORM)

    async def accept(self, request: Request, kind: FormKind) -> Response:
        """Answer a submission, at once or when the job has ended."""
        seconds = wait_seconds(request.headers.getlist("prefer"))
        accepted = await self.intake.accept(PUBLIC_OWNER, request, kind)
        headers = {"Location": f"/api/jobs/{accepted.job_id}"}
        if accepted.replayed:
            headers["Idempotency-Replayed"] = "true"
        if seconds is None or not self.feed.has_capacity:
            return Response(accepted.body, 202, headers, "application/json")
        # The answer begins now, so that the gate gives the memory for the body of the request to other requests.
        body = self._when_ended(accepted, seconds)
        return StreamingResponse(body, 202, headers | preference_applied(seconds), "application/json")

    async def _when_ended(self, accepted: Accepted, seconds: int) -> AsyncIterator[bytes]:
        """Yield the job when it has ended, or after `seconds`. If reading it fails, yield the first answer."""
        try:
            await self.feed.wait_for_end(PUBLIC_OWNER, accepted.job_id, seconds, is_new=not accepted.replayed)
            yield (await run_in_threadpool(self.bodies.read, PUBLIC_OWNER, accepted.job_id)).json
        except PixToolsError:
            yield accepted.body

    def list_jobs(
        self,
        state: JobState | None = None,
        cursor: uuid.UUID | None = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
    ) -> Response:
        """The list contains summaries. Read a job by its id to get the results and their download URLs."""
        summaries = self.store.list_jobs(PUBLIC_OWNER, state=state, before=cursor, limit=limit + 1)
        return json_response(job_list(summaries, limit))

    async def read(
        self,
        request: Request,
        job_id: uuid.UUID,
        prefer: Prefer = None,  # noqa: ARG002 (only for the OpenAPI document)
        if_none_match: Annotated[str | None, Header(description="the `ETag` of an earlier answer")] = None,
    ) -> Response:
        """Download URLs are signed at most once a minute.

        With `Prefer: wait=N`, the answer comes when the job has ended, or after N seconds. If `If-None-Match` contains
        the `ETag` of the present answer, the answer is 304 without a body.
        """
        headers = {}
        seconds = wait_seconds(request.headers.getlist("prefer"))
        if seconds is not None and self.feed.has_capacity:
            await self.feed.wait_for_end(PUBLIC_OWNER, job_id, seconds)
            headers = preference_applied(seconds)
        body = await run_in_threadpool(self.bodies.of, PUBLIC_OWNER, job_id)
        if body.etag is not None:
            headers["ETag"] = body.etag
            if _etags(if_none_match) & {body.etag, "*"}:
                return Response(status_code=304, headers=headers)
        return Response(body.json, 200, headers, "application/json")

    async def cancel(self, job_id: uuid.UUID) -> Response:
        """Running steps are stopped. If the job is already cancelled, the answer is also 200."""
        view = await run_in_threadpool(self.store.cancel, PUBLIC_OWNER, job_id)
        await self.hints.publish(CANCELLED, str(job_id))
        await self.hints.publish(CHANGED, changed(job_id))
        return await self._respond(view)

    async def retry(self, job_id: uuid.UUID) -> Response:
        """The open dead letters of the job are redriven immediately. Discarded dead letters are not redriven."""
        await run_in_threadpool(self.store.get, PUBLIC_OWNER, job_id)  # raises NotFound if the job does not exist
        redriven = await self.letters.retry(PUBLIC_OWNER, job_id)
        view = await run_in_threadpool(self.store.get, PUBLIC_OWNER, job_id)
        # If nothing was redriven but the job has not ended, an earlier retry may have succeeded, and its response may
        # have been lost. So this request succeeds too.
        if not redriven and view.job.state in JOB_ENDED:
            raise NothingToRetry("The job has no open dead letter. To run its steps again, submit the image again.")
        return await self._respond(view, 202)

    async def events(self, job_id: uuid.UUID, last_event_id: Annotated[int, Header(ge=0)] = 0) -> Response:
        """The id of an event is the version of the job. The stream ends when the job ends.

        204 means that the job has ended and that the client has already received the last version of the job.
        """
        status = await run_in_threadpool(self.store.status, PUBLIC_OWNER, job_id)
        if status.state in JOB_ENDED and status.version <= last_event_id:
            return Response(status_code=204)  # tells an EventSource not to connect again
        self.feed.require_capacity()
        stream = self.feed.events(PUBLIC_OWNER, job_id, last_event_id)
        return StreamingResponse(stream, media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    async def _respond(self, view: JobView, status: int = 200) -> Response:
        answer = await run_in_threadpool(answer_of, view, self.blobs, self.blobs.signing_time())
        return json_response(answer, status)


def _etags(if_none_match: str | None) -> set[str]:
    """Return the ETags of the header `If-None-Match`. For this header, a weak ETag equals a strong one (RFC 9110)."""
    return {tag.strip().removeprefix("W/") for tag in (if_none_match or "").split(",")}
