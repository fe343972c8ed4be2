"""Turns errors into responses. Only this module maps an exception to a status and a problem+json body (RFC 9457)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse

from pixtools import logs
from pixtools.errors import (
    MAX_FAULTS,
    BadRequest,
    Fault,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    PixToolsError,
    error_class,
    pointer,
    shortened,
)

log = logging.getLogger(__name__)

_MAX_NAMES = 5

MEDIA_TYPE = "application/problem+json"

FRONT_HEADERS = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))
"""Headers of answers that do not pass through the SecurityHeaders of the application."""
_SOURCES = ("path", "query", "header", "body")  # each location that FastAPI reports begins with one of these


class FaultAnswer(BaseModel):
    """One mistake in a request: a JSON pointer (RFC 6901) to it, and what is wrong."""

    pointer: str
    detail: str


class Problem(BaseModel):
    """An error of a request or of a step."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    errors: list[FaultAnswer]


class RequestProblem(Problem):
    """An error of a request. `request_id` is the header `X-Request-ID` of the answer."""

    request_id: str | None = None


class ProblemType(BaseModel):
    """An explanation of one type of problem. The `type` of a problem is the URL of this document."""

    code: str
    title: str
    status: int
    retryable: bool


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI description of the problems that a route may return."""
    return {status: {"model": RequestProblem, "content": {MEDIA_TYPE: {}}} for status in statuses}


def install(app: FastAPI) -> None:
    """Make `app` answer every error with a problem, and serve an explanation of each type of problem."""
    app.add_exception_handler(PixToolsError, _on_pixtools_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)
    app.add_exception_handler(Exception, _on_unknown_error)
    app.add_api_route("/problems/{code}", _explain, tags=["service"], summary="Explain the type of a problem")


def respond(error: PixToolsError) -> JSONResponse:
    """Return the response for an error. Its size is limited, because `PixToolsError.problem` limits it."""
    headers = {"Retry-After": str(error.retry_after_s)} if error.retry_after_s else {}
    current = logs.ids().get("request_id")
    problem = error.problem() | ({} if current is None else {"request_id": current})
    return JSONResponse(problem, error.status, headers, MEDIA_TYPE)


def invalid_request(faults: Sequence[Fault], total: int | None = None) -> InvalidRequest:
    """Return the error for mistakes in the fields of a request. The detail of the error names the first five fields.

    `total` is the number of all mistakes, if `faults` are only the first ones.
    """
    total = len(faults) if total is None else total
    names = [shortened(_field_name(fault.pointer)) for fault in faults[:_MAX_NAMES]]
    if total == 1:
        return InvalidRequest(f"{names[0]}: {_lowered(faults[0].detail).rstrip('.')}.", tuple(faults))
    more = f" and {total - len(names)} more" if total > len(names) else ""
    return InvalidRequest(f"These fields are not valid: {', '.join(names)}{more}.", tuple(faults[:MAX_FAULTS]))


def _field_name(at: str) -> str:
    """Return the name of the field at a pointer, without a prefix such as `body` or `query`."""
    names = [name.replace("~1", "/").replace("~0", "~") for name in at.split("/")[1:]]
    return ".".join(names[1:] if len(names) > 1 and names[0] in _SOURCES else names)


def _lowered(detail: str) -> str:
    """Return a sentence with a small first letter, for use after a colon. Keep a first word such as JSON."""
    return detail[:1].lower() + detail[1:] if detail[1:2].islower() else detail


def _explain(code: str) -> ProblemType:
    kind = error_class(code)
    if kind is None:
        raise NotFound(f"There is no type of problem with the code {shortened(code)}.")
    return ProblemType(code=code, title=kind.title(), status=kind.status, retryable=kind.retryable)


async def _on_pixtools_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, PixToolsError)  # noqa: S101 (`install` registers each handler for one class)
    if error.status >= 500:  # noqa: PLR2004
        log.warning("request failed: code=%s detail=%s", error.code, error.detail)
    return respond(error)


async def _on_validation_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    found = error.errors()
    return respond(invalid_request([_fault(item) for item in found[:MAX_FAULTS]], len(found)))


def _fault(item: Mapping[str, Any]) -> Fault:
    """Return the fault that an error of pydantic describes."""
    # If the body is not JSON, the location is `body` and an offset in the text. The offset is not a field.
    location = item["loc"][:1] if item["type"] == "json_invalid" else item["loc"]
    if item["type"] == "model_attributes_type" and location == ("body",):
        return Fault("/body", "must be a JSON object; send it with the header Content-Type: application/json")
    return Fault(pointer(*location), item["msg"].removeprefix("Value error, "))


async def _on_http_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101
    kinds: dict[int, type[PixToolsError]] = {404: NotFound, 405: MethodNotAllowed}
    kind = kinds.get(error.status_code, BadRequest if error.status_code < 500 else PixToolsError)  # noqa: PLR2004
    response = respond(kind(error.detail if kind is BadRequest else ""))
    response.headers.update(error.headers or {})
    return response


async def _on_disconnect(_: Request, __: Exception) -> JSONResponse:
    # The client has gone, so nobody reads this response. Without this handler, the server would log a failure.
    return respond(BadRequest("The request ended before its body was complete."))


async def _on_unknown_error(_: Request, __: Exception) -> JSONResponse:
    # Starlette raises the error again after this response, and the server logs it. The response hides internal details.
    return respond(PixToolsError("The error was logged. Try again, and report it if it happens again."))
