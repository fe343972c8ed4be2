"""What came of a step: plain data that travels from converters to the dispatcher and into the job store."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

from pixtools.errors import PixToolsError


@dataclass(frozen=True)
class Stored:
    """An artifact that is in object storage under `blob_key`, before anything refers to it."""

    step_key: str
    blob_key: str
    media_type: str
    bytes: int
    sha256: str
    width: int | None = None
    height: int | None = None
    result: dict[str, Any] | None = None  # what an inspector answers inline


@dataclass(frozen=True)
class Began:
    step: str


@dataclass(frozen=True)
class Cached:
    """The same work was done before, or nobody needs the step's pixels any more: nothing runs."""

    step: str
    artifact_id: uuid.UUID | None


@dataclass(frozen=True)
class Done:
    """The step has its result; `stored` is None where its pixels only passed on."""

    step: str
    stored: Stored | None
    run_ms: int


@dataclass(frozen=True)
class Failed:
    step: str
    error: PixToolsError
    run_ms: int = 0


@dataclass(frozen=True)
class Crashed:
    """The process that ran the step died under it."""

    step: str


Outcome = Began | Cached | Done | Failed | Crashed
