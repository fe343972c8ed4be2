"""Accepts a job: each client request is answered once, whatever dies and however often it is sent again."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

import anyio
import anyio.to_thread
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from uuid6 import uuid7

from dag.plan import Part, Plan, Source
from dag.specification import parse, parse_short
from pixtools.blob_store import BlobStore, part_key, source_key
from pixtools.database.job_store import Accepted, Idempotency, JobStore, JobView, NewJob, NewPart, NewStep, Scope
from pixtools.errors import BadRequest, KeyInUse, PixToolsError
from pixtools.redis.hints import QUEUED, Hints
from pixtools.redis.idempotency_cache import AnswerCache
from pixtools.settings import Settings
from serve.answers import job_answer
from serve.uploads import Upload, UploadedFile, receive

_UPLOADS_AT_ONCE = 16
_KEY = re.compile(r"[\x21-\x7e]{1,255}")


@dataclass(frozen=True)
class Intake:
    settings: Settings
    store: JobStore
    blobs: BlobStore
    answers: AnswerCache
    hints: Hints
    # Threads of their own: uploads to a store that hangs must not take those of every other request.
    _uploads: anyio.CapacityLimiter = field(default_factory=partial(anyio.CapacityLimiter, _UPLOADS_AT_ONCE))

    async def accept(self, owner: str, request: Request) -> Accepted:
        """Store the job that `request` asks for, or replay the answer that it got before."""
        key = request.headers.get("idempotency-key")
        if key is None:
            async with receive(request, self.settings) as upload:
                return await self._submit(owner, upload, await run_in_threadpool(self._plan, upload), None)
        if not _KEY.fullmatch(key):
            raise BadRequest("Idempotency-Key must be 1 to 255 visible ASCII characters.")
        scope = Scope(owner, f"{request.method} {request.url.path}", key)
        async with self._reserved(scope) as known, receive(request, self.settings) as upload:
            plan = await run_in_threadpool(self._plan, upload)
            identity = Idempotency(scope, _fingerprint(upload, plan))
            if known is None:
                replayed = await run_in_threadpool(self.store.replay, identity)
                if replayed is not None:
                    return replayed
                accepted = await self._submit(owner, upload, plan, identity)
                if not accepted.replayed:  # else the day it is kept for began earlier
                    await self.answers.keep(identity, accepted)
                return accepted
            fingerprint, answer = known
            identity.require_match(fingerprint)
            return answer

    @asynccontextmanager
    async def _reserved(self, scope: Scope) -> AsyncIterator[tuple[str, Accepted] | None]:
        """Hold the key against a second request while the first is read; yield its answer if it has one."""
        token = await self.answers.reserve(scope)
        if token is None:
            known = await self.answers.answer(scope)
            if known is None:
                raise KeyInUse("Wait a second and send the same request again: it will get the same answer.")
            yield known
            return
        holding = asyncio.create_task(self.answers.hold(scope, token))
        try:
            yield None
        finally:
            holding.cancel()
            await self.answers.release(scope, token)

    def _plan(self, upload: Upload) -> Plan:
        header = upload.image.header
        parts = {name: _part(part) for name, part in upload.parts.items()}
        source = Source(
            upload.name, upload.image.sha256, (header.width, header.height), header.frames, parts, header.media_type
        )
        fields, weights = upload.fields, self.settings.weights_sha256
        most, limits = self.settings.max_steps, self.settings.image_limits()
        if "steps" in fields:
            return parse(fields["steps"], source, most, limits, weights)
        return parse_short(fields["operations"], fields.get("operation_params"), source, most, limits, weights)

    async def _submit(self, owner: str, upload: Upload, plan: Plan, identity: Idempotency | None) -> Accepted:
        new = _new_job(owner, upload, plan)
        files = {new.source_key: upload.image} | {part.blob_key: upload.parts[part.name] for part in new.parts}
        # Durable before it is referenced.
        await anyio.to_thread.run_sync(self._put, files, limiter=self._uploads)
        accepted = await run_in_threadpool(self.store.submit, new, identity, self._render)
        if accepted.replayed:
            await run_in_threadpool(self._forget, files)
        else:
            await self.hints.publish(QUEUED)
        return accepted

    def _put(self, files: Mapping[str, UploadedFile]) -> None:
        for key, file in files.items():
            self.blobs.put(key, file.data, file.header.media_type)

    def _forget(self, keys: Collection[str]) -> None:
        """Delete files that no job came to use."""
        with suppress(PixToolsError):  # then the sweeper does it
            self.blobs.delete(keys)

    def _render(self, view: JobView) -> bytes:
        return job_answer(view, self.blobs).model_dump_json().encode()


def _part(file: UploadedFile) -> Part:
    header = file.header
    return Part(file.sha256, (header.width, header.height), header.frames, header.media_type, file.bytes)


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
        steps=tuple(
            NewStep(step.name, step.operation.name, step.inputs, step.params.given(), step.key) for step in plan.steps
        ),
        parts=tuple(
            NewPart(
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
    """Return a digest of what the request asks for: never of its raw body, whose boundaries and order change."""
    steps = {step.name: [step.operation.name, step.inputs, step.params.given()] for step in plan.steps}
    content: list[object] = [upload.name, upload.image.sha256, steps]
    if upload.parts:  # else as version 0002 of the code wrote it, whose answers are replayed as well
        content.append({name: part.sha256 for name, part in upload.parts.items()})
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
