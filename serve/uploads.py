"""Reads the request of a new job. `multipart.py` checks the size of the request while the request arrives."""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import IO

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request

from dag.plan import NAME
from pixtools.errors import (
    BadRequest,
    DiskFull,
    EmptyUpload,
    Fault,
    PixToolsError,
    is_full,
    pointer,
)
from pixtools.imaging.header import Header
from pixtools.limits import Limits
from pixtools.settings import Settings
from serve.inspection import Inspection
from serve.multipart import DIRECT_BYTES, read_form
from serve.problems import invalid_request

_MAX_NAME_LENGTH = 150
_MAX_ENDING_LENGTH = 10  # a longer ending is not a file type, so it may be cut
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class FormKind:
    """A kind of form: the names of its text fields. It needs at least one of the fields `needs`."""

    fields: tuple[str, ...]
    needs: tuple[str, ...]


JOB_FORM = FormKind(("steps", "operations", "operation_params", "webhook_url"), needs=("steps", "operations"))
PROCESS_FORM = FormKind(("operations", "operation_params", "webhook_url"), needs=("operations",))


@dataclass(frozen=True)
class UploadedFile:
    """An image file with a valid header. Its pixels are not decoded yet."""

    data: IO[bytes]
    bytes: int
    sha256: str
    header: Header


@dataclass(frozen=True)
class Upload:
    """The content of a request: the source image with its file name, the parts by name, and the text fields."""

    kind: FormKind

    image: UploadedFile
    name: str
    parts: dict[str, UploadedFile]
    fields: dict[str, str]


@dataclass
class Form:
    """The items of a multipart form, sorted into images, parts, text fields and faults."""

    kind: FormKind = JOB_FORM

    files: list[UploadFile] = field(default_factory=list)
    parts: dict[str, UploadFile] = field(default_factory=dict)
    fields: dict[str, str] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def add(self, name: str, value: UploadFile | str) -> None:
        """Add one item, or a fault if the request has no place for it."""
        if name in self.kind.fields and value == "":
            return  # an HTML form also sends fields that the user left empty
        if name == "file" and isinstance(value, UploadFile):
            self.files.append(value)
        elif name in self.fields or name in self.parts:
            self.faults.append(Fault(pointer(name), "is sent twice"))
        elif (mistake := _mistake(name, value, self.kind.fields)) is not None:
            self.faults.append(Fault(pointer(name), mistake))
        elif isinstance(value, UploadFile):
            self.parts[name] = value
        else:
            self.fields[name] = value

    def check(self, max_parts: int) -> None:
        """Raise InvalidRequest for faults, and BadRequest if the image or the steps are missing."""
        faults = [*self.faults, *_contradictions(len(self.files), self.fields)]
        if len(self.parts) > max_parts:
            remedy = f"at most {max_parts} are accepted (PIXTOOLS_MAX_PARTS)"
            too_many = f"is one of {len(self.parts)} files in addition to the image; {remedy}"
            faults += [Fault(pointer(name), too_many) for name in list(self.parts)[max_parts:]]
        if faults:
            raise invalid_request(tuple(faults))
        if not self.files:
            missing = Fault("/file", "is missing; send the image as a file, with a file name")
            raise BadRequest("The image is missing.", (missing,))
        if not self.fields.keys() & self.kind.needs:
            needed = " or ".join(f"`{name}`" for name in self.kind.needs)
            missing = Fault(pointer(self.kind.needs[0]), f"is missing; send {needed}")
            raise BadRequest("The steps are missing.", (missing,))


@asynccontextmanager
async def receive(
    request: Request, settings: Settings, inspection: Inspection, kind: FormKind = JOB_FORM
) -> AsyncIterator[Upload]:
    """Read the request into temporary files. These files are deleted at the end of the context.

    Raises BadRequest, InvalidRequest, UploadTooLarge, UnsupportedType, EmptyUpload, CorruptImage, ImageTooLarge and
    DiskFull.
    """
    try:
        content = await read_form(request, kind.fields, 1 + settings.max_parts, settings.max_upload_bytes)
    except OSError as error:
        if is_full(error):
            raise DiskFull("Send the request again in a while.") from error
        raise
    try:
        yield await _read_upload(content, settings, inspection, kind)
    finally:
        await content.close()


def checked_form(content: FormData, max_parts: int, kind: FormKind = JOB_FORM) -> Form:
    """Return the items of a form by their use.

    Raises InvalidRequest if the items are not as the API describes them, and BadRequest if the image or the steps are
    missing.
    """
    form = Form(kind)
    for name, value in content.multi_items():
        form.add(name, value)
    form.check(max_parts)
    return form


def safe_name(name: str | None) -> str:
    """Return a file name of at most 150 characters, without folders and control characters. Keep a short ending."""
    last = re.split(r"[/\\]", name or "")[-1]
    clean = "".join(char for char in last if char.isprintable()).strip(" .")
    stem, dot, ending = clean.rpartition(".")
    if not dot or len(ending) > _MAX_ENDING_LENGTH:
        stem, dot, ending = clean, "", ""
    return (stem[: _MAX_NAME_LENGTH - len(ending) - 1] or "image") + dot + ending


def _mistake(name: str, value: UploadFile | str, fields: tuple[str, ...]) -> str | None:
    """Return the mistake in one item of the form, or None."""
    is_file = isinstance(value, UploadFile)
    if name == "file":
        return "is text; send it as a file, with a file name"
    if name in fields:
        return "is a file; send it as text" if is_file else None
    if not is_file:
        return (
            f"is not a field of this request; the fields are file, {', '.join(fields)}. "
            "Send an image for a step as a file, with a file name"
        )
    if not NAME.fullmatch(name):
        return "is not a valid name for a further image: use up to 64 letters, digits, - and _"
    return None


def _contradictions(files: int, fields: dict[str, str]) -> list[Fault]:
    faults = []
    if files > 1:
        faults.append(Fault("/file", f"is sent {files} times; send one request for each image"))
    if "steps" in fields and "operations" in fields:
        faults.append(Fault("/operations", "is sent together with `steps`; send only one of them"))
    if "operation_params" in fields and "operations" not in fields:
        faults.append(Fault("/operation_params", "is sent without `operations`; send `operations` too"))
    return faults


async def _read_upload(content: FormData, settings: Settings, inspection: Inspection, kind: FormKind) -> Upload:
    """Check the form and its files, and return their content."""
    form = checked_form(content, settings.max_parts, kind)
    (file,) = form.files
    image = await _check_file("file", file, settings.image_limits(), inspection)
    parts = {
        name: await _check_file(name, part, settings.part_limits(), inspection) for name, part in form.parts.items()
    }
    return Upload(kind, image, safe_name(file.filename), parts, form.fields)


async def _check_file(name: str, upload: UploadFile, limits: Limits, inspection: Inspection) -> UploadedFile:
    """Hash a file and check its header. Errors point to the form field of the file."""
    try:
        is_small = upload.size is not None and upload.size <= DIRECT_BYTES
        size, sha256 = _measure(upload.file) if is_small else await run_in_threadpool(_measure, upload.file)
        header = await inspection.inspect(upload.file, limits)
    except PixToolsError as error:
        detail = error.detail if name == "file" else f"The image {name!r}: {error.detail}"
        raise type(error)(detail, (Fault(pointer(name), error.detail),)) from error
    upload.file.seek(0)
    return UploadedFile(upload.file, size, sha256, header)


def _measure(file: IO[bytes]) -> tuple[int, str]:
    """Return the size and the SHA-256 of a file. Raises EmptyUpload."""
    digest = hashlib.sha256()
    file.seek(0)
    while chunk := file.read(_CHUNK_BYTES):
        digest.update(chunk)
    size = file.tell()
    if size == 0:
        raise EmptyUpload("The file has no bytes. Choose another file.")
    return size, digest.hexdigest()
