"""What the service can do, for forms and scripts: operations with their parameter schemas, and the limits."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from pixtools.imaging.formats import MEDIA_TYPES
from pixtools.operations import OPERATIONS
from pixtools.operations.base.kinds import AnyOperation, Kind
from pixtools.settings import Settings


class LimitsAnswer(BaseModel):
    upload_bytes: int
    pixels: int
    side: int
    frames: int
    steps: int
    parts: int  # files beside the image
    part_pixels: int
    step_seconds: float  # what takes longer is ended


class InputAnswer(BaseModel):
    """How many inputs an operation reads and of what kind; `max` is null where there is no bound."""

    kind: Kind
    min: int
    max: int | None


class OutputAnswer(BaseModel):
    """What it makes; the media type is that of the file it leaves."""

    kind: Kind
    media_type: str


class OperationAnswer(BaseModel):
    op: str
    title: str
    summary: str
    input: InputAnswer
    output: OutputAnswer
    parameters: dict[str, Any]  # a JSON Schema


class Catalog(BaseModel):
    limits: LimitsAnswer
    media_types: list[str]
    operations: list[OperationAnswer]


def catalog(settings: Settings) -> Catalog:
    return Catalog(
        limits=LimitsAnswer(
            upload_bytes=settings.max_upload_bytes,
            pixels=settings.max_pixels,
            side=settings.max_side,
            frames=settings.max_frames,
            steps=settings.max_steps,
            parts=settings.max_parts,
            part_pixels=settings.part_limits().pixels,
            step_seconds=settings.step_deadline.total_seconds(),
        ),
        media_types=list(MEDIA_TYPES.values()),
        operations=[_operation(operation) for operation in OPERATIONS.values()],
    )


def _operation(operation: AnyOperation) -> OperationAnswer:
    return OperationAnswer(
        op=operation.name,
        title=operation.title,
        summary=operation.summary,
        input=InputAnswer(kind=operation.reads, min=1, max=operation.max_inputs),
        output=OutputAnswer(kind=operation.makes, media_type=operation.media_type),
        parameters=operation.params.model_json_schema(),
    )
