"""Accepts new jobs.

A request with an Idempotency-Key makes at most one job. Each repetition of this request gets the response of the first
request, even if a process died in between.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial

import anyio
import anyio.to_thread
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from uuid6 import uuid7

from dag.job_limits import require_within_limits
from dag.plan import PartInfo, Plan, Source
from dag.process_form import parse_process
from dag.short_form import parse_short
from dag.specification import parse
from dag.stored_plan import steps_to_store
from pixtools import logs, tracing
from pixtools.blob_store import BlobStore, part_key, source_key
from pixtools.database.job_store import JobStore
from pixtools.errors import BadRequest, KeyInUse, PixToolsError
from pixtools.jobs.records import PartRecord
from pixtools.jobs.submission import Accepted, Idempotency, IdempotencyScope, NewJob
from pixtools.jobs.views import JobView, view_of
from pixtools.redis.hints import QUEUED, Hints
from pixtools.redis.key_reservations import KeyReservations
from pixtools.settings import Settings
from serve.admission import Admission
from serve.inspection import Inspection
from serve.process_answers import answer_of
from serve.uploads import JOB_FORM, PROCESS_FORM, FormKind, Upload, UploadedFile, receive
from serve.webhooks import Webhooks

log = logging.getLogger(__name__)

_MAX_PARALLEL_UPLOADS = 16
_KEY = re.compile(r"[\x21-\x7e]{1,255}")


@dataclass(frozen=True)
class Intake:
    """Turns requests into jobs.

    `store` keeps the response to each request with an idempotency key. `reservations` holds the keys of the requests
    that are being accepted. `admission` is asked before the body of a request is read.
    `webhooks` checks the URLs of receivers.
    """

    settings: Settings
    store: JobStore
    blobs: BlobStore
    reservations: KeyReservations
    hints: Hints
    inspection: Inspection
    admission: Admission
    webhooks: Webhooks
    # Uploads to object storage have separate threads. Otherwise, while object storage hangs, uploads would occupy the
    # threads that other requests need.
    _upload_threads: anyio.CapacityLimiter = field(
        default_factory=partial(anyio.CapacityLimiter, _MAX_PARALLEL_UPLOADS)
    )

    async def accept(self, owner: str, request: Request, kind: FormKind = JOB_FORM) -> Accepted:
        """Store the job that `request` describes. If this request was accepted before, return the stored response.

        Raises ServiceFull, the errors of `uploads.receive`, InvalidPlan, StorageDown and DatabaseDown. With an
        Idempotency-Key, also raises KeyInUse, KeyReused, and BadRequest if the key is invalid.
        """
        key = request.headers.get("idempotency-key")
        if key is None:
            return await self._accept(owner, request, kind)
        if not _KEY.fullmatch(key):
            raise BadRequest("Idempotency-Key must be 1 to 255 visible ASCII characters.")
        scope = IdempotencyScope(owner, f"{request.method} {request.url.path}", key)
        return await self._accept_once(owner, request, kind, scope)

    async def _accept(self, owner: str, request: Request, kind: FormKind) -> Accepted:
        await self.admission.require_room()
        async with receive(request, self.settings, self.inspection, kind) as upload:
            new = self._new_job(owner, upload, await run_in_threadpool(self._plan, upload))
            await self._put(_files(new, upload))
            accepted = await run_in_threadpool(self._submit, new)
        self.admission.count(new.pixels)
        _log_acceptance(new)
        await self.hints.publish(QUEUED, "")
        return accepted

    async def _accept_once(self, owner: str, request: Request, kind: FormKind, scope: IdempotencyScope) -> Accepted:
        # Ask Postgres first. So requests that repeat an accepted request need no reservation, and many of them can be
        # answered at the same time. A full service answers them too, because they make no job.
        stored = await run_in_threadpool(self.store.stored_response, scope)
        if stored is not None:
            return await self._repeat(request, kind, scope, *stored)
        await self.admission.require_room()
        async with self._reserved(scope), receive(request, self.settings, self.inspection, kind) as upload:
            plan = await run_in_threadpool(self._plan, upload)
            new = self._new_job(owner, upload, plan)
            files = _files(new, upload)
            await self._put(files)
            accepted = await run_in_threadpool(self._submit_once, new, Idempotency(scope, _fingerprint(upload, plan)))
            if accepted.replayed:  # another request with this key was stored first, so no job refers to these files
                await run_in_threadpool(self._delete, files)
            else:
                self.admission.count(new.pixels)
                _log_acceptance(new)
                await self.hints.publish(QUEUED, "")
            return accepted

    async def _repeat(
        self, request: Request, kind: FormKind, scope: IdempotencyScope, fingerprint: str, response: Accepted
    ) -> Accepted:
        """Return the response to the first request. Raises KeyReused if `request` has another fingerprint."""
        async with receive(request, self.settings, self.inspection, kind) as upload:
            plan = await run_in_threadpool(self._plan, upload)
            Idempotency(scope, _fingerprint(upload, plan)).require_match(fingerprint)
            return response

    @asynccontextmanager
    async def _reserved(self, scope: IdempotencyScope) -> AsyncIterator[None]:
        """Reserve an idempotency key while a request is accepted.

        Raises KeyInUse if another request with this key is being accepted.
        """
        token = await self.reservations.reserve(scope)
        if token is None:
            raise KeyInUse("Wait a second and send the request again. It gets the answer to the first request.")
        holding = asyncio.create_task(self.reservations.hold(scope, token))
        try:
            yield
        finally:
            holding.cancel()
            await self.reservations.release(scope, token)

    def _plan(self, upload: Upload) -> Plan:
        header = upload.image.header
        parts = {name: _part_info(part) for name, part in upload.parts.items()}
        size = (header.width, header.height)
        source = Source(upload.name, upload.image.sha256, size, header.frames, parts, header.media_type)
        fields, weights = upload.fields, self.settings.weights_sha256
        max_steps, limits = self.settings.max_steps, self.settings.image_limits()
        if "steps" in fields:
            return parse(fields["steps"], source, max_steps, limits, weights)
        read = parse_process if upload.kind is PROCESS_FORM else parse_short
        return read(fields["operations"], fields.get("operation_params"), source, max_steps, limits, weights)

    def _new_job(self, owner: str, upload: Upload, plan: Plan) -> NewJob:
        """Return the job of a request that is not a repetition. Raises InvalidPlan if it exceeds a limit of a job."""
        field = "steps" if "steps" in upload.fields else "operations"
        require_within_limits(plan, self.settings.job_limits(), field)
        url = upload.fields.get("webhook_url")
        new = _new_job(owner, upload, plan)
        return new if url is None else replace(new, webhook_url=self.webhooks.checked_url(url, "webhook_url"))

    async def _put(self, files: Mapping[str, UploadedFile]) -> None:
        """Put the files into object storage. Call this before any record refers to the files."""
        with tracing.span("put source", files=len(files)):
            await anyio.to_thread.run_sync(self._put_now, files, limiter=self._upload_threads)

    def _put_now(self, files: Mapping[str, UploadedFile]) -> None:
        for key, file in files.items():
            self.blobs.put(key, file.data, file.header.media_type, file.sha256)

    def _submit(self, new: NewJob) -> Accepted:
        return Accepted(self._render(self.store.submit(new)), new.id, replayed=False)

    def _submit_once(self, new: NewJob, idempotency: Idempotency) -> Accepted:
        # One transaction stores the job and the response, so the response is rendered first. All times of a job come
        # from the clock of the database, so the time of creation is read from this clock.
        new = replace(new, created_at=self.store.now())
        return self.store.submit_once(new, idempotency, self._render(view_of(new, self.settings.job_retention)))

    def _render(self, view: JobView) -> bytes:
        return answer_of(view, self.blobs, self.blobs.signing_time()).model_dump_json().encode()

    def _delete(self, keys: Collection[str]) -> None:
        with suppress(PixToolsError):  # if this fails, the reconciler deletes the files later
            self.blobs.delete(keys)


def _log_acceptance(new: NewJob) -> None:
    with logs.about(job_id=new.id, owner=new.owner):
        log.info("accepted: steps=%d pixels=%d", len(new.steps), new.pixels)


def _files(new: NewJob, upload: Upload) -> dict[str, UploadedFile]:
    """Return the files of a job by blob key."""
    return {new.source_key: upload.image} | {part.blob_key: upload.parts[part.name] for part in new.parts}


def _part_info(file: UploadedFile) -> PartInfo:
    header = file.header
    return PartInfo(file.sha256, (header.width, header.height), header.frames, header.media_type, file.bytes)


def _new_job(owner: str, upload: Upload, plan: Plan) -> NewJob:
    job_id, image = uuid7(), upload.image
    return NewJob(
        id=job_id,
        owner=owner,
        source_key=source_key(owner, image.sha256, job_id),
        source_name=upload.name,
        source_media_type=image.header.media_type,
        source_width=image.header.width,
        source_height=image.header.height,
        source_frames=image.header.frames,
        source_bytes=image.bytes,
        source_sha256=image.sha256,
        pixels=plan.work_pixels,
        is_process=upload.kind is PROCESS_FORM,
        request_id=logs.ids().get("request_id"),
        traceparent=tracing.current(),
        steps=steps_to_store(plan),
        parts=tuple(
            PartRecord(
                name=name,
                blob_key=part_key(owner, part.sha256, job_id, name),
                media_type=part.header.media_type,
                width=part.header.width,
                height=part.header.height,
                frames=part.header.frames,
                bytes=part.bytes,
                sha256=part.sha256,
            )
            for name, part in upload.parts.items()
        ),
    )


def _fingerprint(upload: Upload, plan: Plan) -> str:
    """Return a digest of the content of the request.

    The raw body is not hashed, because two bodies with equal content may have different boundaries and different
    orders of fields.
    """
    steps = {step.name: [step.operation.name, step.inputs, step.params.given()] for step in plan.steps}
    content: list[object] = [upload.name, upload.image.sha256, steps]
    # Add nothing for what a request does not have. Earlier releases did not have parts and webhooks, and their stored
    # fingerprints must still match.
    if upload.parts:
        content.append({name: part.sha256 for name, part in upload.parts.items()})
    if "webhook_url" in upload.fields:
        content.append(upload.fields["webhook_url"])
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
