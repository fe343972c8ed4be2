"""The messages between a graph, the converters and the denoiser.

A graph sends one work item to a converter. If the work item starts from pixels, the graph also sends the pixels. The
converter streams its answer:

    Started          The work item has arrived.
    Succeeded        The outcome of a step. Steps run in the order of the segment.
    Failed           The outcome of a step. Steps that read the failed step are skipped and get no message.
    Decoded          The head's pixels are decoded. This message is sent only for a SourceWork or a FileWork.
    PixelsReady      The next item of the stream is a picture for another process.

The graph sends a picture to the denoiser. A replica of the denoiser streams its answer:

    InferenceProgress    `done` is below `total`. This message comes at least every ten seconds.
    InferenceProgress    `done` equals `total`. The next item is the result.
    Inferred             The result.
    InferenceProgress    The result was sent completely.

Pixels travel as separate items of a stream, because the dispatcher passes their ObjectRefs on and never opens them. The
dispatcher requests each stream, so Ray makes the dispatcher the owner of all items. The pixels therefore outlive the
process that made them.

`dag.converter_stream` reads the stream of a converter, and `actors.denoiser_client` reads the stream of a replica.
`dag.segments` explains what the head of a segment is.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dag.segments import ArtifactsSegment, FileSegment, PixelsSegment, SourceSegment
from pixtools.imaging.picture import Picture
from pixtools.jobs.outcomes import Failed, Started, Succeeded


@dataclass(frozen=True)
class Inputs:
    """What each segment of a job reads, and how much the segment may store.

    `source_bytes` is the size of the source file. `bytes_left` is the number of bytes that the segment may store.
    Segments that run at the same time all get the same number. So together they may exceed the limit of the job. `ids`
    are for log lines and traces.
    """

    owner: str
    source_key: str
    source_bytes: int
    parts: Mapping[str, str] = field(default_factory=dict)  # blob keys by part name
    bytes_left: int = sys.maxsize
    ids: Mapping[str, str] | None = None  # None: a dispatcher of an earlier version made this object


@dataclass(frozen=True)
class StoredFile:
    """A file in object storage. `name` is the name of the file inside a bundle."""

    name: str
    blob_key: str


@dataclass(frozen=True)
class SourceWork:
    """A work item for a segment that starts from the source."""

    segment: SourceSegment
    inputs: Inputs


@dataclass(frozen=True)
class PixelsWork:
    """A work item for a segment that starts from pixels. The pixels are a separate argument of the call."""

    segment: PixelsSegment
    inputs: Inputs


@dataclass(frozen=True)
class FileWork:
    """A work item for a segment that starts from the stored file of an inference."""

    segment: FileSegment
    inputs: Inputs
    blob_key: str  # of the inference's file


@dataclass(frozen=True)
class ArtifactsWork:
    """A work item for a segment that reads artifacts. `files` are in the order of the step's inputs."""

    segment: ArtifactsSegment
    inputs: Inputs
    files: tuple[StoredFile, ...]


WorkItem = SourceWork | PixelsWork | FileWork | ArtifactsWork
"""The argument of one converter call: a segment and its inputs."""


@dataclass(frozen=True)
class Decoded:
    """The converter has decoded the head's pixels. Each error after this message concerns only one step."""


@dataclass(frozen=True)
class PixelsReady:
    """The next item of the stream is the picture of `step`, in the form that Picture.share returns.

    `inference` is the step that the denoiser has to run on the picture. If `inference` is None, other segments start
    from the picture.
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
    """A denoised picture. `frames` and `rest` are the two values of Picture.share. The step reports `result`."""

    frames: Any
    rest: Picture
    result: dict[str, Any]
