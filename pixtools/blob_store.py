"""All S3, by the few calls that AWS, MinIO and rclone understand alike.

Each key is used once, by one job or one try of a step: an object never changes, and one to which nothing refers can
be deleted without asking who else may be about to use it.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import IO, Any
from urllib.parse import quote

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from pixtools.errors import ObjectMissing, StorageDown, StorageRefused
from pixtools.settings import Settings

SOURCES, ARTIFACTS = "sources/", "artifacts/"
"""Where in the bucket the two kinds of objects lie."""

DATABASE = "database"
"""The object that says to which database the bucket belongs."""

_OUTAGES = (429, 500, 502, 503, 504)


@dataclass(frozen=True)
class Blob:
    key: str
    modified_at: datetime


def source_key(owner: str, sha256: str, job_id: uuid.UUID) -> str:
    # Not below the hash: that is an object of version 0001, and where objects are files it cannot be a folder too.
    return f"{SOURCES}{owner}/{sha256}-{job_id}"


def part_key(owner: str, sha256: str, job_id: uuid.UUID, name: str) -> str:
    """Return the key of a further file of a job's request, among the sources."""
    return f"{source_key(owner, sha256, job_id)}-{name}"


def artifact_key(owner: str, step_key: str, extension: str) -> str:
    """Return a key for what one try of a step leaves."""
    return f"{ARTIFACTS}{owner}/{step_key}/{uuid.uuid4().hex}.{extension}"


class BlobStore:
    """Objects in one bucket.

    Raises ObjectMissing for a key that is not there, StorageRefused where the store says no, StorageDown where it
    does not answer or asks to be left alone.
    """

    def __init__(self, settings: Settings) -> None:
        self._bucket = settings.s3_bucket
        self._ttl = settings.url_ttl
        self._s3 = _client(settings, settings.s3_endpoint_url)
        # A signature covers the host, so URLs are signed for the address at which a browser reaches S3.
        self._public = _client(settings, settings.s3_public_url or settings.s3_endpoint_url)

    def ping(self) -> None:
        with _answering(self._bucket):
            self._s3.list_objects_v2(Bucket=self._bucket, MaxKeys=1)

    def put(self, key: str, data: bytes | IO[bytes], media_type: str) -> None:
        # One plain PUT, whatever the size: boto3's transfer manager starts threads for each call, which costs
        # more than the upload of an ordinary picture, and 5 GB are enough.
        with _answering(key):
            self._s3.put_object(Bucket=self._bucket, Key=key, Body=data, ContentType=media_type)

    def get(self, key: str) -> bytes:
        with self.open(key) as body:
            return body.read()

    @contextmanager
    def open(self, key: str) -> Iterator[IO[bytes]]:
        """Open an object for reading as a stream."""
        with _answering(key):
            body = self._s3.get_object(Bucket=self._bucket, Key=key)["Body"]
        try:
            yield body
        except BotoCoreError as error:  # the stream broke; other errors are the reader's own
            raise StorageDown(type(error).__name__) from error
        finally:
            body.close()

    def exists(self, key: str) -> bool:
        try:
            with _answering(key):
                self._s3.head_object(Bucket=self._bucket, Key=key)
        except ObjectMissing:
            return False
        return True

    def pages(self, prefix: str) -> Iterator[list[Blob]]:
        """Yield the objects below a prefix, some at a time, in the order of their keys' bytes."""
        pages = iter(self._s3.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix))
        while True:
            with _answering(prefix):
                page = next(pages, None)
            if page is None:
                return
            yield [Blob(found["Key"], found["LastModified"]) for found in page.get("Contents", [])]

    def delete(self, keys: Collection[str]) -> None:
        """Delete objects; those that are not there are no error."""
        for key in keys:
            with _answering(key):
                self._s3.delete_object(Bucket=self._bucket, Key=key)

    def url(self, key: str, name: str, media_type: str, now: datetime) -> tuple[str, datetime]:
        """Return a URL that downloads the object as `name` without credentials, and when it ends.

        Name and type are ours to say, by parameters of the signed URL: a store may forget what it was told.
        """
        url = self._public.generate_presigned_url(
            "get_object",
            Params={
                "Bucket": self._bucket,
                "Key": key,
                "ResponseContentType": media_type,
                "ResponseContentDisposition": attachment(name),
            },
            ExpiresIn=int(self._ttl / timedelta(seconds=1)),
        )
        return url, now + self._ttl


def attachment(name: str) -> str:
    """Return the RFC 6266 Content-Disposition of a download called `name`."""
    plain = "".join(char if char.isascii() and char.isprintable() and char not in '"\\' else "_" for char in name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


def _client(settings: Settings, endpoint: str | None) -> Any:
    key, secret = settings.s3_access_key_id, settings.s3_secret_access_key
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name=settings.s3_region,
        aws_access_key_id=key.get_secret_value() if key else None,
        aws_secret_access_key=secret.get_secret_value() if secret else None,
        config=Config(
            signature_version="s3v4",
            connect_timeout=3,
            read_timeout=15,
            max_pool_connections=16,
            retries={"mode": "standard", "total_max_attempts": 2},  # in all well below a step's deadline
            # With a bucket in the host name an endpoint on loopback would have no address.
            s3={"addressing_style": "path" if endpoint else "auto"},
            # The default checksums break ranged and large downloads from stores that do not send them.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


@contextmanager
def _answering(key: str) -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") in ("NoSuchKey", "404"):
            raise ObjectMissing(f"There is no object {key}. Submit the image again if it stays so.") from error
        kind = StorageDown if error.response["ResponseMetadata"]["HTTPStatusCode"] in _OUTAGES else StorageRefused
        remedy = "" if kind is StorageDown else ". Look at PIXTOOLS_S3_* where the service runs, and its clock"
        raise kind(f"{error.operation_name}: {error.response['Error'].get('Code')}{remedy}") from error
    except (BotoCoreError, OSError) as error:
        raise StorageDown(type(error).__name__) from error
