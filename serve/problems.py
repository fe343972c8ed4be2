"""Errors → responses: the one place where an exception becomes a status and a problem+json body (RFC 9457)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse

from pixtools.errors import (
    BadRequest,
    Fault,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    PixToolsError,
    pointer,
)

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"


class FaultAnswer(BaseModel):
    pointer: str
    detail: str


class Problem(BaseModel):
    """An error, alone or inside a step."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    errors: list[FaultAnswer]


class Kind(BaseModel):
    """What the `type` of a problem leads to."""

    code: str
    title: str
    status: int
    retryable: bool


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Document the problems of a route for OpenAPI."""
    return {status: {"model": Problem, "content": {MEDIA_TYPE: {}}} for status in statuses}


def install(app: FastAPI) -> None:
    """Make every error of `app` a problem."""
    app.add_exception_handler(PixToolsError, _named)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(ClientDisconnect, _left)
    app.add_exception_handler(Exception, _unknown)
    app.add_api_route("/problems/{code}", _explain, tags=["service"], summary="Explain the type of a problem")


def respond(error: PixToolsError) -> JSONResponse:
    headers = {"Retry-After": str(error.retry_after_s)} if error.retry_after_s else {}
    return JSONResponse(error.problem(), error.status, headers, MEDIA_TYPE)


def _explain(code: str) -> Kind:
    for kind in _below(PixToolsError):
        if kind.code == code:
            return Kind(code=code, title=kind.title(), status=kind.status, retryable=kind.retryable)
    raise NotFound(f"There is no problem {code}.")


def _below(kind: type[PixToolsError]) -> Iterator[type[PixToolsError]]:
    yield kind
    for narrower in kind.__subclasses__():
        yield from _below(narrower)


async def _named(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, PixToolsError)  # noqa: S101 (registered for nothing else)
    if error.status >= 500:  # noqa: PLR2004
        log.warning("request failed: code=%s detail=%s", error.code, error.detail)
    return respond(error)


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    faults = tuple(Fault(pointer(*item["loc"]), item["msg"].removeprefix("Value error, ")) for item in error.errors())
    return respond(InvalidRequest("Correct the fields that are named.", faults))


async def _http(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101
    kinds: dict[int, type[PixToolsError]] = {404: NotFound, 405: MethodNotAllowed}
    kind = kinds.get(error.status_code, BadRequest if error.status_code < 500 else PixToolsError)  # noqa: PLR2004
    answer = respond(kind(error.detail if kind is BadRequest else ""))
    answer.headers.update(error.headers or {})
    return answer


async def _left(_: Request, __: Exception) -> JSONResponse:
    return respond(BadRequest("The request ended before all of it had come."))  # nobody reads it


async def _unknown(_: Request, __: Exception) -> JSONResponse:
    # The server logs the error, which is raised again behind this answer; the answer says nothing of our insides.
    return respond(PixToolsError("The error was logged. Try again, or report it if it stays."))
