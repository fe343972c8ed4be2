"""Loads boto3 when it is needed: for listings, for requests that the store refuses, and for the rules of AWS.

boto3 and one client take 35 MB of memory and 0.25 s of CPU time. If the store has an endpoint of its own, most
processes never need them.
"""

from __future__ import annotations

import os
import re
from functools import cached_property
from threading import Lock
from typing import Any

from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.exceptions import NoCredentialsError

from pixtools.object_client import CONNECT_TIMEOUT_S, MAX_CONNECTIONS, READ_TIMEOUT_S, certificates
from pixtools.settings import Settings
from pixtools.signatures import Credentials

# boto3 accepts every endpoint, bucket and region that matches these patterns. It puts the endpoint and the bucket into
# URLs without a change. boto3 refuses some other values and changes some: for example, it encodes special characters in
# the path of an endpoint, and it treats the name of an access point of AWS in its own way.
_LABEL = "(?!-)[A-Za-z0-9-]{1,63}(?<!-)"
_USUAL_ENDPOINT = re.compile(rf"https?://(({_LABEL}\.)*{_LABEL}|\[[0-9A-Fa-f:]+\])(:[0-9]{{1,5}})?(/[A-Za-z0-9_-]+)*/*")
_USUAL_BUCKET = re.compile(r"(?!.*--)[A-Za-z0-9._-]{1,255}")
_USUAL_REGION = re.compile(r"[a-z][a-z0-9-]{,61}[a-z0-9]")


class Boto3:
    """Clients and credentials of boto3, with the settings of the service. Many threads may use it at the same time."""

    def __init__(self, settings: Settings) -> None:
        """Raises the error of boto3, such as ValueError, if it does not accept the endpoint or the region."""
        self._settings = settings
        # Only one thread at a time may use a session of boto3. The lock of cached_property is missing in Python 3.12.
        self._lock = Lock()
        endpoint = settings.s3_endpoint_url
        is_usual = _USUAL_REGION.fullmatch(settings.s3_region) and (endpoint is None or self._is_usual(endpoint))
        if not is_usual or "AWS_PROFILE" in os.environ:  # boto3 refuses a profile that does not exist
            self.client()

    def client(self) -> Any:
        """Return the client of boto3. The first call creates it."""
        with self._lock:
            return self._client

    def credentials(self) -> Credentials:
        """Return the credentials of the settings, or else those that boto3 finds. Raises NoCredentialsError."""
        key, secret = self._settings.s3_access_key_id, self._settings.s3_secret_access_key
        if key and secret:
            return Credentials(key.get_secret_value(), secret.get_secret_value())
        with self._lock:
            found = self._session.get_credentials()
        if found is None:
            raise NoCredentialsError
        current = found.get_frozen_credentials()
        return Credentials(current.access_key, current.secret_key, current.token)

    def bucket_url(self, endpoint: str | None) -> str:
        """Return the beginning of all URLs of the bucket, with a slash at the end. None stands for AWS itself."""
        if endpoint and self._is_usual(endpoint):  # the bucket is a part of the path, as in `_client_of`
            return f"{endpoint.rstrip('/')}/{self._settings.s3_bucket}/"
        import boto3  # noqa: PLC0415 (see the docstring of the module)

        # Without an endpoint, the bucket is a part of the host or a part of the path. This depends on the name of the
        # bucket and on the region, and only boto3 knows the rules. So boto3 builds a request, and `answer` replies to
        # it before it is sent. The credentials are not real, so this also works without credentials.
        unreal = _client_of(boto3.Session("none", "none", region_name=self._settings.s3_region), endpoint)
        urls: list[str] = []

        def answer(request: AWSPreparedRequest, **_: object) -> AWSResponse:
            urls.append(request.url)
            return AWSResponse(request.url, 200, {}, None)

        unreal.meta.events.register("before-send.s3", answer)
        unreal.get_object(Bucket=self._settings.s3_bucket, Key="x")
        unreal.close()
        return urls[0].removesuffix("x")

    def _is_usual(self, endpoint: str) -> bool:
        return bool(_USUAL_ENDPOINT.fullmatch(endpoint) and _USUAL_BUCKET.fullmatch(self._settings.s3_bucket))

    @cached_property
    def _session(self) -> Any:
        import boto3  # noqa: PLC0415 (see the docstring of the module)

        key, secret = self._settings.s3_access_key_id, self._settings.s3_secret_access_key
        return boto3.Session(
            aws_access_key_id=key.get_secret_value() if key else None,
            aws_secret_access_key=secret.get_secret_value() if secret else None,
            region_name=self._settings.s3_region,
        )

    @cached_property
    def _client(self) -> Any:
        return _client_of(self._session, self._settings.s3_endpoint_url)


def _client_of(session: Any, endpoint: str | None) -> Any:
    from botocore.config import Config  # noqa: PLC0415 (only needed with boto3)

    return session.client(
        "s3",
        endpoint_url=endpoint,
        verify=certificates(),
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
