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

from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

from pixtools.errors import ObjectMissing, StorageDown, StorageRefused
from pixtools.object_client import CONNECT_TIMEOUT_S, MAX_CONNECTIONS, OUTAGES, READ_TIMEOUT_S, ObjectClient
from pixtools.settings import Settings
from pixtools.signatures import Credentials, Signer

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
    return f"{SOURCES}{owner}/{sha256}-{job_id}"


def part_key(owner: str, sha256: str, job_id: uuid.UUID, name: str) -> str:
    """Return the key of a part of a job. It has the same prefix as the keys of sources."""
    return f"{source_key(owner, sha256, job_id)}-{name}"


def artifact_key(owner: str, step_key: str, extension: str) -> str:
    """Return a new key for the artifact of one try of a step."""
    return f"{ARTIFACTS}{owner}/{step_key}/{uuid.uuid4().hex}.{extension}"


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

    def get(self, key: str) -> bytes:
        """Return the content of an object."""
        with self.open(key) as body:
            return body.read()

    @contextmanager
    def open(self, key: str) -> Iterator[IO[bytes]]:
        """Open an object for reading as a stream."""
        with _translated_errors(key):
            body = self._objects.get(key) or self._s3.get_object(Bucket=self._bucket, Key=key)["Body"]
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
        `signed_at` is the time from which the URL is valid. Raises StorageRefused if there are no credentials.
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
        return self._bucket_url(self._settings.s3_public_url or self._settings.s3_endpoint_url)

    @cached_property
    def _signer(self) -> Signer:
        # A signature covers the host, so URLs are signed for the address at which browsers reach S3.
        return Signer(self.public_url, self._settings.s3_region, self._credentials)

    @cached_property
    def _objects(self) -> ObjectClient:
        url = self._bucket_url(self._settings.s3_endpoint_url)
        return ObjectClient(url, Signer(url, self._settings.s3_region, self._credentials))

    @cached_property
    def _session(self) -> Any:
        import boto3  # noqa: PLC0415 (boto3 takes 30 MB, and most processes never need it)

        key, secret = self._settings.s3_access_key_id, self._settings.s3_secret_access_key
        return boto3.Session(
            aws_access_key_id=key.get_secret_value() if key else None,
            aws_secret_access_key=secret.get_secret_value() if secret else None,
            region_name=self._settings.s3_region,
        )

    @cached_property
    def _s3(self) -> Any:
        return _client(self._session, self._settings.s3_endpoint_url)

    def _bucket_url(self, endpoint: str | None) -> str:
        if endpoint:  # the bucket is a part of the path, as in `_client`
            return f"{endpoint.rstrip('/')}/{self._bucket}/"
        import boto3  # noqa: PLC0415 (see above)

        # Whether the bucket is a part of the host or of the path depends on its name and on the region, and only the
        # library knows how. So boto3 makes a request, which is not sent. The credentials need not be there.
        unreal = _client(boto3.Session("none", "none", region_name=self._settings.s3_region), None)
        urls: list[str] = []

        def answer(request: AWSPreparedRequest, **_: object) -> AWSResponse:
            urls.append(request.url)
            return AWSResponse(request.url, 200, {}, None)

        unreal.meta.events.register("before-send.s3", answer)
        unreal.get_object(Bucket=self._bucket, Key="x")
        unreal.close()
        return urls[0].removesuffix("x")

    def _credentials(self) -> Credentials:
        key, secret = self._settings.s3_access_key_id, self._settings.s3_secret_access_key
        if key and secret:
            given: Credentials = ReadOnlyCredentials(key.get_secret_value(), secret.get_secret_value(), None)
            return given
        found = self._session.get_credentials()
        if found is None:
            raise NoCredentialsError
        credentials: Credentials = found.get_frozen_credentials()
        return credentials


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


def _client(session: Any, endpoint: str | None) -> Any:
    """Return a client of boto3 with the settings of this service."""
    from botocore.config import Config  # noqa: PLC0415 (only needed with boto3)

    return session.client(
        "s3",
        endpoint_url=endpoint,
        config=Config(
            signature_version="s3v4",
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            max_pool_connections=MAX_CONNECTIONS,
            retries={"mode": "standard", "total_max_attempts": 2},  # so that all tries fit into the deadline of a step
            # The usual host name of a bucket begins with the bucket. An endpoint on loopback has no such host name, so
            # the bucket is part of the path.
            s3={"addressing_style": "path" if endpoint else "auto"},
            # The default checksums break ranged and large downloads from stores that send no checksums.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


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
