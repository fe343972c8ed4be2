"""Outcomes of steps: plain data that travels from converters to the dispatcher and into the job store."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

from pixtools.errors import PixToolsError


@dataclass(frozen=True)
class Stored:
    """A new artifact. Its blob is in object storage, but no record refers to the blob yet."""

    step_key: str
    blob_key: str
    media_type: str
    bytes: int
    sha256: str
    width: int | None = None
    height: int | None = None
    result: dict[str, Any] | None = None  # values that the operation reports as JSON, such as metadata


@dataclass(frozen=True)
class Started:
    """A converter or a denoiser began to run the step, `ago_s` seconds before the outcome is written."""

    step: str
    ago_s: float = 0.0


@dataclass(frozen=True)
class Cached:
    """The step does not run, because its artifact exists, or because no step needs its pixels.

    If no step needs the pixels, `artifact_id` is None.
    """

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


@dataclass(frozen=True)
class Batch:
    """Outcomes of one attempt of a job that are recorded together, in the given order.

    If `settle` is true, the attempt is over: the job ends, or it returns to the queue if steps will be tried again. The
    batches of an attempt are numbered from 1. A batch with a `number` is never written twice.
    """

    job_id: uuid.UUID
    attempt: int
    outcomes: tuple[Outcome, ...]
    number: int | None = None
    settle: bool = False
