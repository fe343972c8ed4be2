"""Download URLs of the files that steps made."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from dag.plan import file_name
from pixtools.blob_store import BlobStore
from pixtools.jobs.records import ArtifactRecord, JobRecord
from pixtools.operations import OPERATIONS


@dataclass(frozen=True)
class Download:
    """A file name, and a URL that downloads the file under this name until `expires_at`."""

    name: str
    url: str
    expires_at: datetime


def download(
    blobs: BlobStore, job: JobRecord, step: str, op: str, artifact: ArtifactRecord, signed_at: datetime
) -> Download:
    """Return the download of the file of a step with the operation `op`. The URL is signed for the time `signed_at`.

    Raises StorageRefused if there are no credentials.
    """
    name = file_name(job.source_name, step, OPERATIONS[op].extension)
    return Download(name, *blobs.url(artifact.blob_key, name, artifact.media_type, signed_at))
