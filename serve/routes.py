"""The HTTP API: routes that translate, and nothing else."""

from __future__ import annotations

import uuid
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from pixtools.blob_store import BlobStore
from pixtools.database.dead_letter_store import Selection
from pixtools.database.job_store import JobStore
from pixtools.errors import NothingToRetry
from pixtools.redis.hints import CANCELLED, MOVED, Hints
from pixtools.states import JOB_ENDED, JobState, LetterState
from serve.answers import JobAnswer, JobList, job_answer
from serve.catalog import Catalog
from serve.dead_letters import DeadLetters, LetterList, NumberAnswer, SelectionForm
from serve.health import Health, HealthAnswer, Readiness
from serve.intake import Intake
from serve.problems import responses
from serve.progress import ProgressFeed

_OWNER = "public"  # until API keys say who asks
_UPLOAD = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    # Named by whoever sends them.
                    "additionalProperties": {
                        "type": "string",
                        "format": "binary",
                        "description": "a further image, such as `logo`, for the steps whose parameters name it",
                    },
                    "properties": {
                        "file": {"type": "string", "format": "binary", "description": "the image"},
                        "steps": {
                            "type": "string",
                            "description": "JSON: named steps, each with `op`, `input` and the operation's parameters; "
                            "one that takes a further image names the part of this form that it comes as",
                            "example": '{"web": {"op": "webp", "input": "source", "resize": {"width": 1280}}}',
                        },
                        "operations": {
                            "type": "string",
                            "description": "JSON, instead of `steps`: operations to run once each on the image",
                            "example": '["webp", "avif"]',
                        },
                        "operation_params": {
                            "type": "string",
                            "description": "JSON, beside `operations`: parameters by operation",
                            "example": '{"webp": {"quality": 80}}',
                        },
                    },
                },
            },
        },
    },
}


def jobs(
    intake: Intake,
    store: JobStore,
    blobs: BlobStore,
    feed: ProgressFeed,
    hints: Hints,
    letters: DeadLetters,
) -> APIRouter:
    router = APIRouter(prefix="/api/jobs", tags=["jobs"])

    @router.post(
        "",
        status_code=202,
        response_model=JobAnswer,
        responses=responses(400, 409, 413, 415, 422, 503),
        openapi_extra=_UPLOAD,
        summary="Submit an image and the steps to run on it",
    )
    async def submit(
        request: Request,
        idempotency_key: Annotated[str | None, Header(description="makes retries safe for 24 hours")] = None,  # noqa: ARG001 (documents it)
    ) -> Response:
        accepted = await intake.accept(_OWNER, request)
        headers = {"Location": f"/api/jobs/{accepted.job_id}"}
        if accepted.replayed:
            headers["Idempotency-Replayed"] = "true"
        return Response(accepted.body, 202, headers, "application/json")

    @router.get("", response_model=JobList, responses=responses(422, 503), summary="List jobs, newest first")
    def history(
        state: JobState | None = None,
        cursor: uuid.UUID | None = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
    ) -> Response:
        views = store.history(_OWNER, state=state, before=cursor, limit=limit + 1)
        more = views[limit - 1].job.id if len(views) > limit else None
        return _json(JobList(jobs=[job_answer(view, blobs) for view in views[:limit]], next=more))

    @router.get(
        "/{job_id}",
        response_model=JobAnswer,
        responses=responses(404, 422, 503),
        summary="Read a job, with fresh download URLs",
    )
    def read(job_id: uuid.UUID) -> Response:
        return _json(job_answer(store.get(_OWNER, job_id), blobs))

    @router.post(
        "/{job_id}/cancel",
        response_model=JobAnswer,
        responses=responses(404, 409, 422, 503),
        summary="Cancel a job that has not ended; what it has made stays",
    )
    async def cancel(job_id: uuid.UUID) -> Response:
        view = await run_in_threadpool(store.cancel, _OWNER, job_id)
        await hints.publish(CANCELLED, str(job_id))
        await hints.publish(MOVED, str(job_id))
        return _json(job_answer(view, blobs))

    @router.post(
        "/{job_id}/retry",
        status_code=202,
        response_model=JobAnswer,
        responses=responses(404, 409, 422, 503),
        summary="Run again what failed in a job, and what was skipped for it",
    )
    async def retry(job_id: uuid.UUID) -> Response:
        await run_in_threadpool(store.get, _OWNER, job_id)
        redriven = await letters.retry(_OWNER, job_id)
        view = await run_in_threadpool(store.get, _OWNER, job_id)
        if not redriven and view.job.state in JOB_ENDED:  # else an earlier retry, whose answer was lost, did it
            raise NothingToRetry("No step of it waits for a decision. Submit the image again to run them anew.")
        return _json(job_answer(view, blobs), 202)

    @router.get(
        "/{job_id}/events",
        response_class=StreamingResponse,
        responses={200: {"content": {"text/event-stream": {}}}, 204: {}, **responses(404, 422, 503)},
        summary="Follow a job by server-sent events, each with the whole job",
    )
    async def events(job_id: uuid.UUID, last_event_id: Annotated[int, Header(ge=0)] = 0) -> Response:
        view = await run_in_threadpool(store.get, _OWNER, job_id)
        if view.job.state in JOB_ENDED and view.job.version <= last_event_id:
            return Response(status_code=204)  # tells an EventSource not to come back
        feed.require_place()
        read = partial(_versioned, store, blobs, job_id)
        stream = feed.events(_OWNER, job_id, last_event_id, read)
        return StreamingResponse(stream, media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    return router


def _json(answer: BaseModel, status: int = 200) -> Response:
    """Serialize an answer that is one already: FastAPI would validate it again, at twice the cost of the rest."""
    return Response(answer.model_dump_json(), status, media_type="application/json")


def _versioned(store: JobStore, blobs: BlobStore, job_id: uuid.UUID) -> tuple[int, JobAnswer]:
    view = store.get(_OWNER, job_id)
    return view.job.version, job_answer(view, blobs)


def dead_letters(letters: DeadLetters) -> APIRouter:
    router = APIRouter(prefix="/api/dead-letters", tags=["dead letters"])

    @router.get("", response_model=LetterList, responses=responses(422, 503), summary="List steps out of attempts")
    def page(
        state: Annotated[LetterState | None, Query(description="without it, those that are open")] = None,
        job: uuid.UUID | None = None,
        op: str | None = None,
        code: Annotated[str | None, Query(description="of the error")] = None,
        cursor: uuid.UUID | None = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
    ) -> Response:
        selection = Selection(job=job, op=op, code=code)
        return _json(letters.page(_OWNER, selection, state=state, before=cursor, limit=limit))

    @router.post(
        "/redrive",
        status_code=202,
        responses=responses(422, 503),
        summary="Run again the steps of all dead letters selected, at a bounded rate",
    )
    async def redrive_all(form: SelectionForm) -> NumberAnswer:
        return await letters.redrive(_OWNER, form.selection())

    @router.post("/discard", responses=responses(422, 503), summary="Discard all dead letters selected")
    async def discard_all(form: SelectionForm) -> NumberAnswer:
        return await letters.discard(_OWNER, form.selection())

    @router.post(
        "/{letter_id}/redrive",
        status_code=202,
        responses=responses(404, 409, 422, 503),
        summary="Run a step out of attempts again",
    )
    async def redrive(letter_id: uuid.UUID) -> NumberAnswer:
        return await letters.redrive(_OWNER, Selection(id=letter_id))

    @router.delete(
        "/{letter_id}",
        status_code=204,
        responses=responses(404, 409, 422, 503),
        summary="Discard a dead letter",
    )
    async def discard(letter_id: uuid.UUID) -> Response:
        await letters.discard(_OWNER, Selection(id=letter_id))
        return Response(status_code=204)

    return router


def service(catalog: Catalog, health: Health) -> APIRouter:
    router = APIRouter(prefix="/api")

    @router.get("/operations", tags=["jobs"], summary="What steps can do: parameter schemas and limits")
    def operations() -> Catalog:
        return catalog

    @router.get("/livez", tags=["service"], summary="Say that the process answers")
    async def live() -> dict[str, Any]:
        return {"live": True}

    @router.get("/readyz", tags=["service"], responses=responses(503), summary="Say whether jobs can be accepted")
    async def ready() -> Readiness:
        return await health.require_ready()

    @router.get("/health", tags=["service"], responses=responses(503), summary="Show the parts and the backlog")
    async def parts() -> HealthAnswer:
        return await health.report()

    return router
