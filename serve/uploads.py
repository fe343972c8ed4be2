"""Reads the multipart request of a new job as a stream, capped while it comes, into what can be trusted."""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import IO

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request
from starlette.types import Message, Receive

from pixtools.errors import (
    BadRequest,
    DiskFull,
    EmptyUpload,
    Fault,
    InvalidRequest,
    UploadTooLarge,
    is_full,
    pointer,
)
from pixtools.imaging.header import Header, inspect
from pixtools.settings import Settings

_FIELDS = ("steps", "operations", "operation_params")
_FORM_BYTES = 1_000_000  # what the fields and boundaries around the file may take
_MAX_NAME = 150


@dataclass(frozen=True)
class Upload:
    """An image that passed every check short of decoding, and the fields that came with it."""

    file: IO[bytes]
    name: str
    bytes: int
    sha256: str
    header: Header
    fields: dict[str, str]


@asynccontextmanager
async def receive(request: Request, settings: Settings) -> AsyncIterator[Upload]:
    """Read the request; its spooled file is gone on leaving. Raises the errors of its form, size and type."""
    most = settings.max_upload_bytes + _FORM_BYTES
    if int(request.headers.get("content-length") or 0) > most:
        raise _too_large(settings)
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise BadRequest("Send multipart/form-data with the image as its part `file`.")
    capped = Request(request.scope, _capped(request.receive, most, settings))
    try:
        form = await capped.form(max_part_size=_FORM_BYTES)
    except OSError as error:
        if is_full(error):
            raise DiskFull("Send it again in a while.") from error
        raise
    try:
        file, fields = _parts(form)
        if file.size is not None and file.size > settings.max_upload_bytes:
            raise _too_large(settings)
        sha256, header = await run_in_threadpool(_examine, file.file, settings)
        yield Upload(file.file, safe_name(file.filename), file.size or 0, sha256, header, fields)
    finally:
        await form.close()


def safe_name(name: str | None) -> str:
    """Return a file name without folders or control characters, at most 150 long, its ending kept."""
    last = re.split(r"[/\\]", name or "")[-1]
    clean = "".join(char for char in last if char.isprintable()).strip(" .")
    stem, dot, ending = clean.rpartition(".")
    if not dot or len(ending) > 10:  # noqa: PLR2004 (no ending is longer)
        stem, dot, ending = clean, "", ""
    return (stem[: _MAX_NAME - len(ending) - 1] or "image") + dot + ending


def _parts(form: FormData) -> tuple[UploadFile, dict[str, str]]:
    files: list[UploadFile] = []
    fields: dict[str, str] = {}
    faults: list[Fault] = []
    for name, value in form.multi_items():
        if name == "file" and isinstance(value, UploadFile):
            files.append(value)
        elif name == "file":
            faults.append(Fault("/file", "came as text; send it as a file, with a file name"))
        elif name not in _FIELDS or isinstance(value, UploadFile):
            faults.append(Fault(pointer(name), f"is no field of this request; it has file, {', '.join(_FIELDS)}"))
        elif name in fields:
            faults.append(Fault(pointer(name), "stands twice"))
        else:
            fields[name] = value
    faults += _conflicts(len(files), fields)
    if faults:
        raise InvalidRequest("Correct the fields that are named.", tuple(faults))
    if not files:
        missing = Fault("/file", "is missing; send the image as a file, with a file name")
        raise BadRequest("The image is missing.", (missing,))
    if not {"steps", "operations"} & fields.keys():
        raise BadRequest("The work is missing.", (Fault("/steps", "is missing; send `steps` or `operations`"),))
    return files[0], fields


def _conflicts(files: int, fields: dict[str, str]) -> list[Fault]:
    faults = []
    if files > 1:
        faults.append(Fault("/file", f"{files} files came; send one request for each image"))
    if "steps" in fields and "operations" in fields:
        faults.append(Fault("/operations", "stands beside `steps`; send one of them"))
    if "operation_params" in fields and "operations" not in fields:
        faults.append(Fault("/operation_params", "needs `operations` beside it"))
    return faults


def _examine(file: IO[bytes], settings: Settings) -> tuple[str, Header]:
    digest = hashlib.sha256()
    file.seek(0)
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    if file.tell() == 0:
        raise EmptyUpload("The file has no bytes. Choose another one.")
    header = inspect(file, settings.image_limits())
    file.seek(0)
    return digest.hexdigest(), header


def _capped(receive: Receive, most: int, settings: Settings) -> Receive:
    """Count the body as it comes: a client need not say its length, or may lie."""
    total = 0

    async def counted() -> Message:
        nonlocal total
        message = await receive()
        total += len(message.get("body", b""))
        if total > most:
            raise _too_large(settings)
        return message

    return counted


def _too_large(settings: Settings) -> UploadTooLarge:
    return UploadTooLarge(f"At most {settings.max_upload_bytes / 1e6:g} MB are accepted. Send a smaller file.")
