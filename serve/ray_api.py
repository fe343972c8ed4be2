"""The HTTP API for clients of the Ray cluster. Their requests arrive as calls of a handle of Ray Serve.

Perhaps such a client cannot reach object storage. So one more route returns the files of steps. `serve.ray_client` is
the side of the client.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from typing import Annotated

import httpx
from fastapi import FastAPI, Header
from starlette.responses import Response
from starlette.types import ASGIApp

from pixtools.blob_store import BlobStore
from pixtools.database.job_store import JobStore
from pixtools.errors import BadRequest, NotFound
from serve import problems
from serve.owner import PUBLIC_OWNER

MAX_PART_BYTES = 8_000_000
"""The largest part of a file in one answer."""

_RANGE = re.compile(r"bytes=([0-9]{1,15})-")


@dataclass(frozen=True)
class RayApi:
    """Answers requests that arrive as calls of a Serve handle. `app` is the application with the gate around it."""

    app: ASGIApp

    async def request(
        self, method: str, url: str, headers: list[tuple[str, str]], body: list[Awaitable[bytes]]
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        """Answer one request. Return the status, the headers and the body.

        `url` is absolute. `body` holds an ObjectRef for each piece of the body. This process gets a piece only when the
        gate has room for it. The method returns only complete answers: an event stream when its job has ended. All
        types are plain, because the gateway may run older code.
        """

        async def content() -> AsyncIterator[bytes]:
            for part in body:
                yield await part

        request = httpx.Request(method, url, headers=headers, content=content() if body else None)
        answer = await httpx.ASGITransport(self.app, raise_app_exceptions=False).handle_async_request(request)
        return answer.status_code, answer.headers.multi_items(), await answer.aread()


def with_files(app: ASGIApp, store: JobStore, blobs: BlobStore) -> FastAPI:
    """Return an application with the routes of `app`, and one more that returns the file of a step."""

    def read_file(job_id: uuid.UUID, step: str, range_: Annotated[str, Header(alias="range")] = "bytes=0-") -> Response:
        """Return at most MAX_PART_BYTES of a file. They begin with the first byte of the range.

        Raises BadRequest if the range does not have the form `bytes=N-`. Raises NotFound if the step has no file, or if
        the file has no such byte.
        """
        given = _RANGE.fullmatch(range_)
        if given is None:
            raise BadRequest("Send a Range header such as `bytes=0-`.")
        artifact = store.get(PUBLIC_OWNER, job_id).artifacts.get(step)
        start = int(given[1])
        if artifact is None or start >= artifact.bytes:
            raise NotFound("The step has no file, or the file ends before this range.")
        end = min(start + MAX_PART_BYTES, artifact.bytes)
        part = blobs.get_part(artifact.blob_key, start, end - start)
        headers = {"Content-Range": f"bytes {start}-{end - 1}/{artifact.bytes}"}
        return Response(part, 206, headers, artifact.media_type)

    extended = FastAPI(openapi_url=None)
    problems.install(extended)
    extended.add_api_route("/api/jobs/{job_id}/steps/{step}/file", read_file)
    extended.mount("/", app)
    return extended
