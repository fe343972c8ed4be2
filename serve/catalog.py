"""The catalog for forms and scripts: the limits, and the operations with the JSON Schemas of their parameters."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from pixtools.imaging.formats import MEDIA_TYPES
from pixtools.operations import OPERATIONS
from pixtools.operations.base.kinds import AnyOperation, DataKind
from pixtools.settings import Settings


class LimitsAnswer(BaseModel):
    """The limits of a request. `side` and `pixels` limit the image and every result.

    The limits that begin with `job_` apply to all steps of a job together. `job_pixels` counts the pictures that steps
    leave as files. `kept_steps` is the number of steps whose pixels may be stored without loss.
    """

    upload_bytes: int
    pixels: int
    side: int
    frames: int
    steps: int
    parts: int  # further files of a request, such as a logo
    part_pixels: int
    step_seconds: float  # a step that runs longer is stopped
    job_pixels: int
    kept_steps: int
    job_bytes: int
    job_seconds: float  # the time on converters; the waiting times do not count


class InputAnswer(BaseModel):
    """What an operation reads: the kind of its inputs, and how many. `max` is null if there is no maximum."""

    kind: DataKind
    min: int
    max: int | None


class OutputAnswer(BaseModel):
    """What an operation makes: the kind of data, and the media type of the file."""

    kind: DataKind
    media_type: str


class OperationAnswer(BaseModel):
    """One operation."""

    op: str
    title: str
    summary: str
    input: InputAnswer
    output: OutputAnswer
    parameters: dict[str, Any]  # a JSON Schema


class Catalog(BaseModel):
    """Everything that a form for jobs needs to know."""

    limits: LimitsAnswer
    media_types: list[str]
    operations: list[OperationAnswer]


def catalog(settings: Settings) -> Catalog:
    """Return the catalog of a service with these settings."""
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
            job_pixels=settings.max_job_pixels,
            kept_steps=settings.max_kept_steps,
            job_bytes=settings.max_job_bytes,
            job_seconds=settings.job_deadline.total_seconds(),
        ),
        media_types=list(MEDIA_TYPES.values()),
        operations=[_operation(operation, settings.max_side) for operation in OPERATIONS.values()],
    )


def _operation(operation: AnyOperation, max_side: int) -> OperationAnswer:
    return OperationAnswer(
        op=operation.name,
        title=operation.title,
        summary=operation.summary,
        input=InputAnswer(kind=operation.reads, min=1, max=operation.max_inputs),
        output=OutputAnswer(kind=operation.makes, media_type=operation.media_type),
        parameters=_with_max_side(operation.params.model_json_schema(), max_side),
    )


def _with_max_side(schema: Any, max_side: int) -> Any:
    """Return a copy of a JSON Schema. In the copy, `max_side` limits every width and height of a picture.

    The limit is a setting of the service. Widths and heights have the format `side`, at any depth of `schema`.
    """
    match schema:
        case {"format": "side"}:
            return {**schema, "maximum": max_side}
        case dict():
            return {key: _with_max_side(value, max_side) for key, value in schema.items()}
        case list():
            return [_with_max_side(value, max_side) for value in schema]
        case _:
            return schema
