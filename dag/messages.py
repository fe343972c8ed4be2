"""The messages between a graph, the converters and the denoiser.

A graph sends a converter one work item, and the pixels if the work item starts from pixels. The converter streams
its answer:

    Started          The work item has arrived.
    Succeeded        The outcome of a step. Steps run in the order of the segment.
    Failed           The outcome of a step. Steps that read it are skipped and get no message.
    Decoded          The head's pixels are decoded. Not sent for a PixelsWork.
    PixelsReady      The next item of the stream is a picture for another process.

The graph sends the denoiser a picture. A replica streams its answer:

    InferenceProgress    At least every ten seconds; `done` is below `total`.
    InferenceProgress    `done` equals `total`: the next item is the result.
    Inferred             The result.
    InferenceProgress    The result has been sent whole.

Pixels travel as separate items, because the dispatcher passes their ObjectRefs on and never opens them. As items of a
stream that the dispatcher requested, the dispatcher owns them, so they outlive the process that made them.
`dag.converter_stream` reads the first stream, and `actors.denoiser_client` the second.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dag.segments import ArtifactsSegment, FileSegment, PixelsSegment, SourceSegment
from pixtools.imaging.picture import Picture
from pixtools.jobs.outcomes import Failed, Started, Succeeded


@dataclass(frozen=True)
class Inputs:
    """The owner of a job, and the blob keys of its source and parts."""

    owner: str
    source_key: str
    source_bytes: int
    parts: Mapping[str, str] = field(default_factory=dict)  # blob keys by part name


@dataclass(frozen=True)
class StoredFile:
    """A file in object storage. `name` is its name inside a bundle."""

    name: str
    blob_key: str


@dataclass(frozen=True)
class SourceWork:
    """Make the steps of a segment that starts from the source."""

    segment: SourceSegment
    inputs: Inputs


@dataclass(frozen=True)
class PixelsWork:
    """Make the steps of a segment that starts from pixels. The pixels are a separate argument of the call."""

    segment: PixelsSegment
    inputs: Inputs


@dataclass(frozen=True)
class FileWork:
    """Make the steps of a segment that starts from the stored file of an inference."""

    segment: FileSegment
    inputs: Inputs
    blob_key: str  # of the inference's file


@dataclass(frozen=True)
class ArtifactsWork:
    """Make the step of a segment that reads artifacts. `files` are in the order of the step's inputs."""

    segment: ArtifactsSegment
    inputs: Inputs
    files: tuple[StoredFile, ...]


WorkItem = SourceWork | PixelsWork | FileWork | ArtifactsWork
"""What one converter call is asked to do."""


@dataclass(frozen=True)
class Decoded:
    """The converter has decoded the head's pixels. Errors from here on belong to one step."""


@dataclass(frozen=True)
class PixelsReady:
    """The next item of the stream is the picture of `step`, as Picture.share returns it.

    `inference` is the step that the denoiser has to run on the picture. If it is None, the picture is the head of
    other segments.
    """

    step: str
    inference: str | None = None


ConverterMessage = Started | Succeeded | Failed | Decoded | PixelsReady


@dataclass(frozen=True)
class InferenceProgress:
    """A replica has done `done` of `total` units of work on a picture."""

    done: int
    total: int


@dataclass(frozen=True)
class Inferred:
    """The result of an inference: the two values of Picture.share, and the result that the step reports."""

    frames: Any
    rest: Picture
    result: dict[str, Any]
