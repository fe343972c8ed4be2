"""Outcomes of steps: plain data that travels from converters to the dispatcher and into the job store."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

from pixtools.errors import PixToolsError


@dataclass(frozen=True)
class Stored:
    """An artifact whose blob is in object storage. No record refers to it yet."""

    step_key: str
    blob_key: str
    media_type: str
    bytes: int
    sha256: str
    width: int | None = None
    height: int | None = None
    result: dict[str, Any] | None = None  # the JSON result of an operation that describes its input


@dataclass(frozen=True)
class Started:
    """A converter or a denoiser began with the step."""

    step: str


@dataclass(frozen=True)
class Cached:
    """The step does not run. Its artifact exists already, or no step needs its pixels and `artifact_id` is None."""

    step: str
    artifact_id: uuid.UUID | None


@dataclass(frozen=True)
class Succeeded:
    """The step has its result. `stored` is None if the result is only the pixels that other steps read."""

    step: str
    stored: Stored | None
    run_ms: int


@dataclass(frozen=True)
class Failed:
    """A try of the step failed with an error. The error decides whether the step is tried again."""

    step: str
    error: PixToolsError
    run_ms: int = 0


@dataclass(frozen=True)
class Crashed:
    """The process that ran the step died."""

    step: str


Outcome = Started | Cached | Succeeded | Failed | Crashed
