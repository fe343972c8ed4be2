"""Signs download URLs and requests of S3.

The method is AWS Signature Version 4. In a URL the signature is part of the query:
https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html. In a request the signature is a header:
https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html. The client of botocore can sign the same
URLs and requests, but it takes some 0.6 ms for each of them.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from urllib.parse import SplitResult, quote, urlsplit


@dataclass(frozen=True)
class Credentials:
    """The credentials of an account at one moment. `token` is set if they are temporary."""

    access_key: str
    secret_key: str = field(repr=False)
    token: str | None = field(default=None, repr=False)


class Signer:
    """Signs URLs and requests for the objects in one bucket."""

    def __init__(self, bucket_url: str, region: str, credentials: Callable[[], Credentials]) -> None:
        """`bucket_url` is the beginning of all URLs of the bucket, and ends with a slash.

        `credentials` returns valid credentials. It is called for each signature, because temporary credentials change.
        """
        self._bucket_url = bucket_url
        self._region = region
        self._credentials = credentials
        url = urlsplit(bucket_url)
        self._host, self._path = _host_header(url), url.path

    def url(self, key: str, query: Mapping[str, str], now: datetime, ttl: timedelta) -> str:
        """Return a URL that downloads the object `key`. It is valid from `now` on for the whole seconds of `ttl`.

        `query` holds further parameters of the request.
        """
        credentials = self._credentials()
        time, scope = self._time_and_scope(now)
        parameters = {
            **query,
            "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
            "X-Amz-Credential": f"{credentials.access_key}/{scope}",
            "X-Amz-Date": time,
            "X-Amz-Expires": str(ttl // timedelta(seconds=1)),
            "X-Amz-SignedHeaders": "host",
        }
        if credentials.token:
            parameters["X-Amz-Security-Token"] = credentials.token
        # The signature needs the encoded names in sorted order. Encoding changes none of these names.
        encoded = {quote(name, safe=""): quote(parameters[name], safe="") for name in sorted(parameters)}
        encoded_query = "&".join(f"{name}={value}" for name, value in encoded.items())
        path = _encoded(key)
        request = f"GET\n{self._path}{path}\n{encoded_query}\nhost:{self._host}\n\nhost\nUNSIGNED-PAYLOAD"
        signature = _signature(credentials.secret_key, time, scope, request)
        return f"{self._bucket_url}{path}?{encoded_query}&X-Amz-Signature={signature}"

    def request(
        self, method: str, key: str, headers: Mapping[str, str], sha256: str, now: datetime
    ) -> tuple[str, dict[str, str]]:
        """Return the URL and the headers of a request for the object `key`. S3 accepts the request for some minutes.

        `headers` holds further headers to sign. Their names are in lower case. `sha256` is the digest of the body in
        hex. AWS refuses another body.
        """
        credentials = self._credentials()
        time, scope = self._time_and_scope(now)
        signed = {**headers, "host": self._host, "x-amz-content-sha256": sha256, "x-amz-date": time}
        if credentials.token:
            signed["x-amz-security-token"] = credentials.token
        names = ";".join(sorted(signed))
        lines = "".join(f"{name}:{signed[name]}\n" for name in sorted(signed))
        path = _encoded(key)
        request = f"{method}\n{self._path}{path}\n\n{lines}\n{names}\n{sha256}"
        signature = _signature(credentials.secret_key, time, scope, request)
        signed["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={credentials.access_key}/{scope}, SignedHeaders={names}, "
            f"Signature={signature}"
        )
        return f"{self._bucket_url}{path}", signed

    def _time_and_scope(self, now: datetime) -> tuple[str, str]:
        time = f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}"
        return time, f"{time[:8]}/{self._region}/s3/aws4_request"


def _encoded(key: str) -> str:
    return quote(key, safe="/~")


def _signature(secret: str, time: str, scope: str, request: str) -> str:
    digest = hashlib.sha256(request.encode()).hexdigest()
    return _hmac(_signing_key(secret, scope), f"AWS4-HMAC-SHA256\n{time}\n{scope}\n{digest}").hex()


def _host_header(url: SplitResult) -> str:
    """Return the header `Host` that clients send: in lower case, without user and without the usual port."""
    name = url.hostname or ""
    host = f"[{name}]" if ":" in name else name
    is_usual = url.port in (None, {"http": 80, "https": 443}.get(url.scheme))
    return host if is_usual else f"{host}:{url.port}"


@lru_cache(maxsize=4)
def _signing_key(secret: str, scope: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = _hmac(key, part)
    return key


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), "sha256")
