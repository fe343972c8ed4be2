"""`Signer` signs the same URLs and requests as botocore."""

from __future__ import annotations

import hashlib
import io
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import boto3
import pytest
from botocore.awsrequest import AWSResponse
from botocore.config import Config
from urllib3 import HTTPResponse

from pixtools.signatures import Signer

KEYS = ["artifacts/local/abc/0f.webp", "sources/public/ä b+c%2F~x-(1)'*.jpg", "x"]
NAMES = ["attachment; filename=\"a b.webp\"; filename*=UTF-8''gr%C3%B6%C3%9Fe.webp", "plain~name+&=?/"]
ENDPOINTS = [
    *(None, "http://127.0.0.1:9000", "https://pictures.example:8443/s3", "https://pictures.example"),
    *("https://pictures.example:443", "http://pictures.example:80", "https://Pictures.Example", "http://[::1]:9000"),
]


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("token", [None, "a/temporary+token=="])
@pytest.mark.parametrize("region", ["us-east-1", "eu-central-1"])
@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("name", NAMES)
def test_a_url_is_the_one_that_botocore_signs(endpoint, token, region, key, name):
    client = client_of(endpoint, token, region)
    parameters = {"Bucket": "pix", "Key": key, "ResponseContentType": "image/webp", "ResponseContentDisposition": name}
    theirs = client.generate_presigned_url("get_object", parameters, ExpiresIn=899)

    bucket_url = client.generate_presigned_url("get_object", {"Bucket": "pix", "Key": "x"}).partition("?")[0][:-1]
    credentials = SimpleNamespace(access_key="an id", secret_key="a/secret+", token=token)
    now = datetime.strptime(parts(theirs)["X-Amz-Date"][0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    query = {"response-content-type": "image/webp", "response-content-disposition": name}
    ours = Signer(bucket_url, region, lambda: credentials).url(key, query, now, timedelta(seconds=899.9))

    assert ours.partition("?")[0] == theirs.partition("?")[0]
    assert parts(ours) == parts(theirs)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("token", [None, "a/temporary+token=="])
@pytest.mark.parametrize("region", ["us-east-1", "eu-central-1"])
@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_a_request_is_the_one_that_botocore_signs(endpoint, token, region, method):
    client = client_of(endpoint, token, region)
    bucket_url = sent(client, lambda: client.get_object(Bucket="pix", Key="x")).url.removesuffix("x")
    credentials = SimpleNamespace(access_key="an id", secret_key="a/secret+", token=token)
    signer = Signer(bucket_url, region, lambda: credentials)
    for key in KEYS:
        if method == "GET":
            body, headers = b"", {}
            theirs = sent(client, lambda: client.get_object(Bucket="pix", Key=key))  # noqa: B023 (called at once)
        else:
            body, headers = b"x", {"content-type": "image/webp"}
            put = {"Bucket": "pix", "Key": key, "Body": body, "ContentType": "image/webp"}
            theirs = sent(client, lambda: client.put_object(**put))  # noqa: B023 (called at once)
        now = datetime.strptime(theirs.headers["X-Amz-Date"].decode(), "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        url, ours = signer.request(method, key, headers, hashlib.sha256(body).hexdigest(), now)

        assert url == theirs.url
        assert ours["authorization"] == theirs.headers["Authorization"].decode()
        assert ours.get("x-amz-security-token") == token


def sent(client, call):
    """Return the request that botocore would send."""
    requests = []

    def answer(request, **_):
        requests.append(request)
        return AWSResponse(request.url, 200, {}, HTTPResponse(io.BytesIO()))

    client.meta.events.register_first("before-send.s3", answer)
    call()
    client.meta.events.unregister("before-send.s3", answer)
    return requests[0]


@lru_cache
def client_of(endpoint: str | None, token: str | None, region: str):
    config = Config(
        signature_version="s3v4",
        s3={"addressing_style": "path" if endpoint else "auto"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    session = boto3.Session("an id", "a/secret+", token, region_name=region)
    return session.client("s3", endpoint_url=endpoint, config=config)


def parts(url: str) -> dict[str, list[str]]:
    return parse_qs(urlsplit(url).query, strict_parsing=True)


def test_new_credentials_are_used_at_once():
    found = SimpleNamespace(access_key="first", secret_key="s", token=None)
    signer = Signer("https://pix.example/", "us-east-1", lambda: found)
    now, ttl = datetime(2026, 11, 29, tzinfo=UTC), timedelta(minutes=15)
    first = signer.url("x", {}, now, ttl)
    found.secret_key = "t"
    assert signer.url("x", {}, now, ttl) != first
    found.access_key = "second"
    assert "X-Amz-Credential=second%2F20261129%2F" in signer.url("x", {}, now, ttl)
