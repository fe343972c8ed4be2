"""Gets, puts, copies and deletes whole objects of S3 with less CPU time and memory than boto3 needs.

boto3 builds, signs and reads a request with general machinery, which takes more CPU time than the transfer of a small
picture, and 35 MB of memory. This client signs its requests itself, and sends them through the HTTP session of
botocore. So it treats connections, proxies and certificates as boto3 does, and raises the same errors.
"""

from __future__ import annotations

import hashlib
import os
import random
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import IO, Any
from urllib.parse import quote

from botocore.awsrequest import AWSPreparedRequest
from botocore.exceptions import BotoCoreError
from botocore.httpsession import URLLib3Session
from botocore.response import StreamingBody
from botocore.utils import get_environ_proxies

from pixtools.errors import StorageDown
from pixtools.signatures import Signer

OUTAGES = (429, 500, 502, 503, 504)
"""After these statuses of a store, the same request may succeed later."""

CONNECT_TIMEOUT_S, READ_TIMEOUT_S, MAX_CONNECTIONS = 3, 15, 16
"""Limits of the connections to the store. A client of boto3 gets the same."""

_EMPTY_SHA256 = hashlib.sha256().hexdigest()
_SMALL_BYTES = 1 << 20  # a larger file is sent in pieces, after the store has accepted the headers
_ERROR_DELAY_S, _OUTAGE_DELAY_S = 0.05, 1.0  # the longest random delays before the second try, as in boto3


class _LargePieces:
    """A file that returns up to 1 MB at each read, even if the reader asks for less.

    The HTTP library asks for 16 kB each time, and sends as many bytes as it gets. Large pieces cost less CPU time.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, _: int) -> bytes:
        return self._file.read(_SMALL_BYTES)


class ObjectClient:
    """Gets, puts, copies and deletes whole objects of one bucket. Many threads may use it at the same time.

    If the store cannot be reached or has an outage, each method tries again once, and then raises BotoCoreError or
    StorageDown. If the store refuses the request or redirects it, the methods do not find out why: boto3 does that.
    """

    def __init__(self, bucket_url: str, signer: Signer) -> None:
        """`bucket_url` is the beginning of the URLs that `signer` signs. It decides which proxy is used."""
        self._http = URLLib3Session(
            timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S),
            max_pool_connections=MAX_CONNECTIONS,
            socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
            proxies=get_environ_proxies(bucket_url),  # as in boto3
            verify=certificates(),
        )
        self._signer = signer

    def has_bucket(self) -> bool:
        """Return whether the store knows the bucket and the credentials. If it does not, boto3 finds out why."""
        return self._answer(lambda: self._request("HEAD", "", {}, _EMPTY_SHA256)) is not None

    def exists(self, key: str) -> bool:
        """Return whether the store says that an object exists. If it does not, boto3 finds out why."""
        return self._answer(lambda: self._request("HEAD", key, {}, _EMPTY_SHA256)) is not None

    def delete(self, key: str) -> bool:
        """Delete an object, or do nothing if it does not exist. Return False if boto3 must do this."""
        if not key:  # this request would delete the bucket
            return False
        return self._answer(lambda: self._request("DELETE", key, {}, _EMPTY_SHA256)) is not None

    def get(self, key: str, byte_range: str | None = None) -> Any | None:
        """Return the body of an object, which is a stream as in boto3. Return None if boto3 must make the request.

        `byte_range` is the value of a Range header. The stream raises BotoCoreError if the connection ends before the
        last byte.
        """
        headers = {"range": byte_range} if byte_range else {}
        response = self._answer(lambda: self._request("GET", key, headers, _EMPTY_SHA256))
        return response and StreamingBody(response.raw, response.headers.get("Content-Length"))

    def put(self, key: str, file: IO[bytes], size: int, media_type: str, sha256: str) -> bool:
        """Store the last `size` bytes of a file, whose digest is `sha256`. Return False if boto3 must do this."""
        start, headers = file.tell(), {"content-type": media_type}

        def request() -> AWSPreparedRequest:
            file.seek(start)
            if size <= _SMALL_BYTES:
                return self._request("PUT", key, headers, sha256, file.read())
            made = self._request("PUT", key, headers, sha256, _LargePieces(file))
            made.headers |= {"content-length": str(size), "Expect": b"100-continue"}
            return made

        return self._answer(request) is not None

    def copy(self, source: str, key: str) -> bool:
        """Store a copy of an object. `source` is a bucket, a slash and a key. Return False if boto3 must do this."""
        headers = {"x-amz-copy-source": quote(source, safe="/~")}
        response = self._answer(lambda: self._request("PUT", key, headers, _EMPTY_SHA256))
        # If a copy fails after the store has begun its answer, the status is 200, and the body says what failed.
        return response is not None and b"<Error>" not in response.content

    def _request(
        self, method: str, key: str, headers: dict[str, str], sha256: str, body: bytes | _LargePieces | None = None
    ) -> AWSPreparedRequest:
        url, signed = self._signer.request(method, key, headers, sha256, datetime.now(UTC))
        return AWSPreparedRequest(method, url, signed, body, stream_output=method == "GET")

    def _answer(self, request: Callable[[], AWSPreparedRequest]) -> Any | None:
        """Send a request, at most twice. Return the response, or None if it is not a success."""
        # The second try also helps if the store has closed a connection at the moment at which it is used again.
        try:
            return self._send(request())
        except (BotoCoreError, StorageDown) as error:
            time.sleep(random.uniform(0, _OUTAGE_DELAY_S if isinstance(error, StorageDown) else _ERROR_DELAY_S))  # noqa: S311 (no secret)
        return self._send(request())

    def _send(self, request: AWSPreparedRequest) -> Any | None:
        response = self._http.send(request)
        if response.status_code < 300:  # noqa: PLR2004
            return response
        response.raw.close()
        if response.status_code in OUTAGES:
            raise StorageDown(f"{request.method} of an object: status {response.status_code}")
        return None


def certificates() -> str | bool:
    """Return the path of the certificates that a client of boto3 trusts, or True for the usual certificates."""
    return os.environ.get("AWS_CA_BUNDLE") or _ca_bundle_of_files() or os.environ.get("REQUESTS_CA_BUNDLE") or True


def _ca_bundle_of_files() -> str | None:
    """Return the setting `ca_bundle` in the configuration files of AWS. Raises ProfileNotFound."""
    files = ("AWS_CONFIG_FILE", "~/.aws/config"), ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")
    paths = [os.path.expanduser(os.environ.get(variable, path)) for variable, path in files]  # noqa: PTH111 (Path raises)
    if not any(map(os.path.isfile, paths)):
        return None
    from botocore.session import Session  # noqa: PLC0415 (it takes 2 MB, and on most machines there are no such files)

    found: str | None = Session().get_config_variable("ca_bundle")
    return found
