"""All access to S3. The module uses only calls that behave the same in AWS, MinIO and rclone.

Each key is used once, by one job or one try of a step. So an object never changes. When no record refers to an object
any more, the object can be deleted safely, because no new record will refer to it.
"""

from __future__ import annotations

import hashlib
import io
import os
import time
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import IO, Any
from urllib.parse import quote

from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

from pixtools.boto3_client import Boto3
from pixtools.errors import ObjectMissing, StorageDown, StorageRefused
from pixtools.object_client import OUTAGES, ObjectClient
from pixtools.settings import Settings
from pixtools.signatures import Signer

SOURCES, ARTIFACTS = "sources/", "artifacts/"
"""Prefixes of the keys of sources and of artifacts."""

DATABASE = "database"
"""Key of an object in the bucket. Its content is the id of the database that owns the bucket."""

_SIGNING_TIMES = 15  # in the lifetime of a URL
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Blob:
    """An object in a listing."""

    key: str
    modified_at: datetime


def source_key(owner: str, sha256: str, job_id: uuid.UUID) -> str:
    """Return the key of the source of a job."""
    # No slash follows the hash, because in version 0001 a key ended with the hash. Some stores keep objects as files.
    # There, the path that ends with the hash may be an old file, so it cannot be a folder for new files.
    return f"{SOURCES}{owner}/{_spread(sha256)}{sha256}-{job_id}"


def part_key(owner: str, sha256: str, job_id: uuid.UUID, name: str) -> str:
    """Return the key of a part of a job. It has the same prefix as the keys of sources."""
    return f"{source_key(owner, sha256, job_id)}-{name}"


def artifact_key(owner: str, step_key: str, extension: str) -> str:
    """Return a new key for the artifact of one try of a step."""
    return f"{ARTIFACTS}{owner}/{_spread(step_key)}{step_key}-{uuid.uuid4().hex}.{extension}"


def _spread(digest: str) -> str:
    """Return the part of a key that spreads objects over up to 65,536 folders. `digest` is a hash in hexadecimal.

    A store that keeps objects as files reads a whole folder to find one file, so folders must stay small.
    """
    return f"{digest[:2]}/{digest[2:4]}/"


class BlobStore:
    """The objects in one bucket.

    Every method raises StorageDown if the store does not answer or asks to slow down. Every method raises
    StorageRefused if the store refuses the call. Methods that read an object raise ObjectMissing if the object does
    not exist.
    """

    def __init__(self, settings: Settings) -> None:
        self._bucket = settings.s3_bucket
        self._ttl = settings.url_ttl
        self._settings = settings
        self._boto3 = Boto3(settings)

    def ping(self) -> None:
        """Ask for the bucket, to see whether the store answers. Raises StorageRefused if there is no such bucket."""
        # HEAD of the bucket costs the same for every size of the bucket. A listing does not: before rclone returns one
        # object, it reads all folders, which takes seconds with 100,000 objects. HEAD of an object would not tell a
        # missing bucket from a missing object.
        try:
            with _translated_errors(self._bucket):
                if not self._objects.has_bucket():
                    self._s3.head_bucket(Bucket=self._bucket)
        except ObjectMissing as error:
            raise StorageRefused(f"There is no bucket {self._bucket}. Create it, or set PIXTOOLS_S3_BUCKET") from error

    def put(self, key: str, data: bytes | IO[bytes], media_type: str, sha256: str | None = None) -> str:
        """Store an object, and return its SHA-256 digest in hex. `sha256` is the digest, if the caller knows it.

        If `data` is an open file, the method reads the file from the current position. AWS compares what it receives
        with the digest; rclone does not.
        """
        # One plain PUT stores every size up to 5 GB. The transfer manager of boto3 starts threads for each call, which
        # costs more than the upload of an ordinary picture.
        file = io.BytesIO(data) if isinstance(data, bytes) else data
        start = file.tell()
        sha256 = sha256 or _digest(file)
        size = file.seek(0, os.SEEK_END) - start
        file.seek(start)
        with _translated_errors(key):
            if not self._objects.put(key, file, size, media_type, sha256):
                file.seek(start)
                self._s3.put_object(Bucket=self._bucket, Key=key, Body=file, ContentType=media_type)
        return sha256

    def copy(self, key: str, new_key: str) -> None:
        """Store a copy of an object of at most 5 GB under a new key. The bytes do not leave the store."""
        with _translated_errors(key):
            if not self._objects.copy(f"{self._bucket}/{key}", new_key):
                source = {"Bucket": self._bucket, "Key": key}
                self._s3.copy_object(Bucket=self._bucket, Key=new_key, CopySource=source)

    def get(self, key: str) -> bytes:
        """Return the content of an object."""
        with self.open(key) as body:
            return body.read()

    def get_part(self, key: str, start: int, size: int) -> bytes:
        """Return the bytes of an object from `start` on, at most `size`. Raises like `get`.

        The object must have the byte `start`.
        """
        with self.open(key, f"bytes={start}-{start + size - 1}") as body:
            return body.read()

    @contextmanager
    def open(self, key: str, byte_range: str | None = None) -> Iterator[IO[bytes]]:
        """Open an object for reading as a stream.

        `byte_range` is the value of a Range header, such as `bytes=0-99`. Without it, the stream has the whole object.
        """
        ranged = {"Range": byte_range} if byte_range else {}
        with _translated_errors(key):
            body = (
                self._objects.get(key, byte_range)
                or self._s3.get_object(Bucket=self._bucket, Key=key, **ranged)["Body"]
            )
        try:
            yield body
        except BotoCoreError as error:  # the stream broke; every other error comes from the caller's block
            raise StorageDown(type(error).__name__) from error
        finally:
            body.close()

    def exists(self, key: str) -> bool:
        """Return whether an object exists."""
        try:
            with _translated_errors(key):
                if not self._objects.exists(key):
                    self._s3.head_object(Bucket=self._bucket, Key=key)
        except ObjectMissing:
            return False
        return True

    def pages(self, prefix: str) -> Iterator[list[Blob]]:
        """Yield the objects whose key begins with a prefix, page by page, sorted by the bytes of their keys."""
        with _translated_errors(prefix):
            pages = iter(self._s3.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix))
        while True:
            with _translated_errors(prefix):
                page = next(pages, None)
            if page is None:
                return
            yield [Blob(found["Key"], found["LastModified"]) for found in page.get("Contents", [])]

    def delete(self, keys: Collection[str]) -> None:
        """Delete objects. Objects that do not exist are skipped."""
        for key in keys:
            with _translated_errors(key):
                if not self._objects.delete(key):
                    self._s3.delete_object(Bucket=self._bucket, Key=key)

    def url(self, key: str, name: str, media_type: str, signed_at: datetime) -> tuple[str, datetime]:
        """Return a URL that downloads an object as `name` without credentials, and the time at which the URL expires.

        The signed URL contains the name and the media type, because some stores do not keep the values of the upload.
        The URL is valid from `signed_at` on. Raises StorageRefused if there are no credentials.
        """
        query = {"response-content-type": media_type, "response-content-disposition": attachment(name)}
        try:
            return self._signer.url(key, query, signed_at, self._ttl), signed_at + self._ttl
        except NoCredentialsError as error:
            message = "There are no credentials for S3. Set the PIXTOOLS_S3_* variables of the service"
            raise StorageRefused(message) from error

    def signing_time(self) -> datetime:
        """Return the present time, rounded down. Download URLs are signed for this time.

        If a URL lives for 15 minutes, the time is rounded to minutes. So all reads of an unchanged job within one
        minute get the same answer.
        """
        step_s = max(1, self._ttl // timedelta(seconds=_SIGNING_TIMES))
        return datetime.fromtimestamp(time.time() // step_s * step_s, UTC)

    @cached_property
    def public_url(self) -> str:
        """The beginning of all download URLs: the address at which browsers reach the bucket. It ends with a slash."""
        public = self._settings.s3_public_url
        return self._boto3.bucket_url(public) if public else self._own_url

    @cached_property
    def _own_url(self) -> str:
        """The beginning of the URLs that this process itself uses for the bucket. It ends with a slash."""
        return self._boto3.bucket_url(self._settings.s3_endpoint_url)

    @cached_property
    def _signer(self) -> Signer:
        # A signature covers the host, so URLs are signed for the address at which browsers reach S3.
        return Signer(self.public_url, self._settings.s3_region, self._boto3.credentials)

    @cached_property
    def _objects(self) -> ObjectClient:
        # From Python 3.12 on, two threads that ask at the same time may get two clients. Both work, and one is kept.
        return ObjectClient(self._own_url, Signer(self._own_url, self._settings.s3_region, self._boto3.credentials))

    @property
    def _s3(self) -> Any:
        return self._boto3.client()


def _digest(file: IO[bytes]) -> str:
    """Return the digest of a file from its current position on."""
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK_BYTES):
        digest.update(chunk)
    return digest.hexdigest()


def attachment(name: str) -> str:
    """Return the Content-Disposition header (RFC 6266) of a download with the file name `name`."""
    plain = "".join(char if char.isascii() and char.isprintable() and char not in '"\\' else "_" for char in name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


@contextmanager
def _translated_errors(key: str) -> Iterator[None]:
    """Turn errors of boto3 into PixTools errors. The message of ObjectMissing contains `key`."""
    try:
        yield
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") in ("NoSuchKey", "404"):
            raise ObjectMissing(f"There is no object {key}. If this error persists, submit the image again.") from error
        kind = StorageDown if error.response["ResponseMetadata"]["HTTPStatusCode"] in OUTAGES else StorageRefused
        remedy = "" if kind is StorageDown else ". Check the PIXTOOLS_S3_* variables of the service, and its clock"
        raise kind(f"{error.operation_name}: {error.response['Error'].get('Code')}{remedy}") from error
    except (BotoCoreError, OSError) as error:
        raise StorageDown(type(error).__name__) from error
