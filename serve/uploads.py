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

from dag.plan import NAME
from pixtools.errors import (
    BadRequest,
    DiskFull,
    EmptyUpload,
    Fault,
    InvalidRequest,
    PixToolsError,
    UploadTooLarge,
    is_full,
    pointer,
)
from pixtools.imaging.header import Header, Limits, inspect
from pixtools.settings import Settings

_FIELDS = ("steps", "operations", "operation_params")
_FORM_BYTES = 1_000_000  # what the fields and boundaries around the file may take
_MAX_NAME = 150


@dataclass(frozen=True)
class UploadedFile:
    """An image file that passed every check short of decoding."""

    data: IO[bytes]
    bytes: int
    sha256: str
    header: Header


@dataclass(frozen=True)
class Upload:
    """An image, its file name, and what came with it: fields, and further images by the names of their parts."""

    image: UploadedFile
    name: str
    parts: dict[str, UploadedFile]
    fields: dict[str, str]


@dataclass(frozen=True)
class _Form:
    file: UploadFile
    parts: dict[str, UploadFile]
    fields: dict[str, str]


@asynccontextmanager
async def receive(request: Request, settings: Settings) -> AsyncIterator[Upload]:
    """Read the request; its spooled files are gone on leaving. Raises the errors of its form, size and type."""
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
        read = _read(form, settings)
        if sum(file.size or 0 for file in (read.file, *read.parts.values())) > settings.max_upload_bytes:
            raise _too_large(settings)
        image = await run_in_threadpool(_examine, "file", read.file, settings.image_limits())
        parts = {
            name: await run_in_threadpool(_examine, name, file, settings.part_limits())
            for name, file in read.parts.items()
        }
        yield Upload(image, safe_name(read.file.filename), parts, read.fields)
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


def _read(form: FormData, settings: Settings) -> _Form:
    files: list[UploadFile] = []
    parts: dict[str, UploadFile] = {}
    fields: dict[str, str] = {}
    faults: list[Fault] = []
    for name, value in form.multi_items():
        if name == "file" and isinstance(value, UploadFile):
            files.append(value)
        elif name in fields or name in parts:
            faults.append(Fault(pointer(name), "stands twice"))
        elif (wrong := _misfit(name, value)) is not None:
            faults.append(Fault(pointer(name), wrong))
        elif isinstance(value, UploadFile):
            parts[name] = value
        else:
            fields[name] = value
    faults += _conflicts(len(files), fields)
    if len(parts) > settings.max_parts:
        too_many = f"{len(parts)} files beside the image are more than the {settings.max_parts} accepted"
        faults += [Fault(pointer(name), too_many) for name in list(parts)[settings.max_parts :]]
    if faults:
        raise InvalidRequest("Correct the fields that are named.", tuple(faults))
    if not files:
        missing = Fault("/file", "is missing; send the image as a file, with a file name")
        raise BadRequest("The image is missing.", (missing,))
    if not {"steps", "operations"} & fields.keys():
        raise BadRequest("The work is missing.", (Fault("/steps", "is missing; send `steps` or `operations`"),))
    return _Form(files[0], parts, fields)


def _misfit(name: str, value: UploadFile | str) -> str | None:
    """Say what is wrong with a field or a further file by itself."""
    is_file = isinstance(value, UploadFile)
    if name == "file":
        return "came as text; send it as a file, with a file name"
    if name in _FIELDS:
        return "came as a file; send it as text" if is_file else None
    if not is_file:
        return (
            f"is no field of this request; it has file, {', '.join(_FIELDS)}. "
            "An image for a step is sent as a file, with a file name"
        )
    if not NAME.fullmatch(name):
        return "is no name for a file that a step takes: use up to 64 letters, digits, - and _"
    return None


def _conflicts(files: int, fields: dict[str, str]) -> list[Fault]:
    faults = []
    if files > 1:
        faults.append(Fault("/file", f"{files} files came; send one request for each image"))
    if "steps" in fields and "operations" in fields:
        faults.append(Fault("/operations", "stands beside `steps`; send one of them"))
    if "operation_params" in fields and "operations" not in fields:
        faults.append(Fault("/operation_params", "needs `operations` beside it"))
    return faults


def _examine(name: str, upload: UploadFile, limits: Limits) -> UploadedFile:
    try:
        return _examined(upload, limits)
    except PixToolsError as error:
        said = error.detail if name == "file" else f"The image {name!r}: {error.detail}"
        raise type(error)(said, (Fault(pointer(name), error.detail),)) from error


def _examined(upload: UploadFile, limits: Limits) -> UploadedFile:
    file = upload.file
    digest = hashlib.sha256()
    file.seek(0)
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    size = file.tell()
    if size == 0:
        raise EmptyUpload("The file has no bytes. Choose another one.")
    header = inspect(file, limits)
    file.seek(0)
    return UploadedFile(file, size, digest.hexdigest(), header)


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
    return UploadTooLarge(
        f"At most {settings.max_upload_bytes / 1e6:g} MB are accepted, all files together. Send smaller ones."
    )
