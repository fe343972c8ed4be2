"""Failures of object storage while whole objects are read and written. Each one is retried once, as in boto3."""

from __future__ import annotations

import hashlib
import io
import ipaddress
import json
import ssl
import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from scripted_store import ScriptedStore, scripted_store

from pixtools.blob_store import BlobStore
from pixtools.errors import ObjectMissing, StorageDown, StorageRefused
from pixtools.settings import Settings

DATA = bytes(range(256)) * 40
LARGE = 3 << 20  # a file of this size is sent in pieces


@pytest.fixture
def store() -> Iterator[ScriptedStore]:
    with scripted_store() as store:
        yield store


@pytest.fixture
def there(settings: Settings, store: ScriptedStore) -> Settings:
    """Settings of a service whose object storage fails as the test tells it to."""
    return settings.model_copy(update={"s3_endpoint_url": store.url, "s3_bucket": "pix"})


@pytest.fixture
def blobs(there: Settings) -> BlobStore:
    return BlobStore(there)


def put(blobs: BlobStore, size: int = len(DATA)) -> str:
    return blobs.put("some/key", io.BytesIO((DATA * (size // len(DATA) + 1))[:size]), "image/webp")


def methods(store: ScriptedStore) -> list[str]:
    return [method for method, *_ in store.requests]


def test_all_calls_use_one_connection_and_the_type_is_stored(blobs, store):
    digest = put(blobs)

    assert [blobs.get("some/key") for _ in range(3)] == [DATA] * 3
    assert digest == hashlib.sha256(DATA).hexdigest()
    assert store.types == {"/pix/some/key": "image/webp"}
    assert len({client for *_, client in store.requests}) == 1


@pytest.mark.parametrize("failure", [500, 502, 503, 504, 429, "hang up"])
@pytest.mark.parametrize("size", [len(DATA), LARGE])
def test_after_one_failure_the_same_data_is_sent_again(blobs, store, failure, size):
    store.script = [failure]

    digest = put(blobs, size)

    assert hashlib.sha256(store.objects["/pix/some/key"]).hexdigest() == digest
    assert methods(store) == ["PUT", "PUT"]


@pytest.mark.parametrize("failure", [503, "hang up"])
def test_after_one_failure_an_object_is_read_again(blobs, store, failure):
    put(blobs)
    store.script = [failure]

    assert blobs.get("some/key") == DATA
    assert methods(store) == ["PUT", "GET", "GET"]


@pytest.mark.parametrize("failure", [503, "hang up"])
def test_after_two_failures_the_store_is_down(blobs, store, failure):
    put(blobs)
    for call in (put, lambda blobs: blobs.get("some/key")):
        store.script, store.requests = [failure] * 2, []

        with pytest.raises(StorageDown):
            call(blobs)
        assert len(store.requests) == 2


@pytest.mark.parametrize("failure", [503, "hang up"])
@pytest.mark.parametrize("call", [lambda blobs: blobs.ping(), lambda blobs: blobs.exists("some/key")])
def test_a_question_is_asked_twice(blobs, store, failure, call):
    put(blobs)
    store.script, store.requests = [failure], []
    call(blobs)
    assert methods(store) == ["HEAD", "HEAD"]

    store.script, store.requests = [failure] * 2, []
    with pytest.raises(StorageDown):
        call(blobs)
    assert methods(store) == ["HEAD", "HEAD"]


@pytest.mark.parametrize("failure", [503, "hang up"])
def test_an_object_is_deleted_at_the_second_try(blobs, store, failure):
    put(blobs)
    store.script, store.requests = [failure], []
    blobs.delete(["some/key"])
    assert store.objects == {}
    assert methods(store) == ["DELETE", "DELETE"]

    store.script, store.requests = [failure] * 2, []
    with pytest.raises(StorageDown):
        blobs.delete(["some/key"])
    assert methods(store) == ["DELETE", "DELETE"]


def test_without_a_key_nothing_is_deleted(blobs, store):
    with pytest.raises(StorageDown, match="ParamValidationError"):
        blobs.delete([""])
    assert store.requests == []


def test_a_file_is_read_from_its_position_at_each_try(blobs, store):
    file = io.BytesIO(b"not this" + DATA)
    file.seek(8)
    store.script = [503]

    blobs.put("some/key", file, "image/webp")

    assert store.objects["/pix/some/key"] == DATA


def read_in_pieces(blobs: BlobStore) -> bytes:
    with blobs.open("some/key") as body:
        return b"".join(iter(lambda: body.read(1_000), b""))


@pytest.mark.parametrize("read", [lambda blobs: blobs.get("some/key"), read_in_pieces])
def test_a_truncated_object_means_that_the_store_is_down(blobs, store, read):
    put(blobs)
    assert read(blobs) == DATA
    store.script = ["cut"]

    with pytest.raises(StorageDown):
        read(blobs)


def test_idle_connections_that_the_store_has_closed_cause_no_error(blobs, store):
    put(blobs)
    store.script = ["close"] * 8
    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(blobs.get, ["some/key"] * 8)) == {DATA}
    time.sleep(0.2)

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(blobs.get, ["some/key"] * 8)) == {DATA}


def test_a_store_that_hangs_is_asked_again_after_15_seconds(blobs, store):
    put(blobs)
    store.script = ["sleep"]
    started = time.monotonic()

    assert blobs.get("some/key") == DATA
    assert time.monotonic() - started > 14
    assert methods(store) == ["PUT", "GET", "GET"]


def test_a_large_file_that_the_store_refuses_is_not_sent(blobs, store):
    store.script = [403, 403]

    with pytest.raises(StorageRefused):
        put(blobs, LARGE)
    assert store.received_bytes == 0


def test_a_large_file_is_not_read_into_memory(settings):
    blobs = BlobStore(settings)
    put(blobs)
    with tempfile.TemporaryFile() as file:
        file.truncate(64 << 20)
        tracemalloc.start()
        try:
            blobs.put("some/large", file, "image/tiff")
            peak_bytes = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak_bytes < 8 << 20


def test_credentials_that_are_renewed_are_used_at_once(there, store, tmp_path, monkeypatch):
    # botocore asks for new credentials when the old ones expire within the next 15 minutes.
    counter, expiry = tmp_path / "count", datetime.now(UTC) + timedelta(minutes=5)
    answer = {"Version": 1, "AccessKeyId": "id-$n", "SecretAccessKey": "secret-$n", "SessionToken": "token-$n"}
    made = json.dumps(answer | {"Expiration": expiry.isoformat()}).replace('"', '\\"')
    script = tmp_path / "credentials.sh"
    script.write_text(f'n=$(cat {counter} 2>/dev/null)1\necho $n > {counter}\necho "{made}"\n')
    config = tmp_path / "config"
    config.write_text(f"[default]\ncredential_process = /bin/sh {script}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    blobs = BlobStore(there.model_copy(update={"s3_access_key_id": None, "s3_secret_access_key": None}))

    put(blobs)
    assert blobs.get("some/key") == DATA

    headers = [headers for _, _, headers, _ in store.requests]
    tokens = [header["x-amz-security-token"] for header in headers]
    assert len(set(tokens)) == 2
    for token, header in zip(tokens, headers, strict=True):
        assert f"Credential=id-{token.removeprefix('token-')}/" in header["authorization"]


def test_without_credentials_the_store_is_down(there, store, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for variable in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(variable, str(tmp_path / "none"))
    blobs = BlobStore(there.model_copy(update={"s3_access_key_id": None, "s3_secret_access_key": None}))

    with pytest.raises(StorageDown, match="NoCredentialsError"):
        blobs.get("some/key")
    with pytest.raises(StorageRefused, match="PIXTOOLS_S3"):
        blobs.url("some/key", "x.webp", "image/webp", datetime.now(UTC))
    assert store.requests == []


def test_requests_go_through_the_proxy_of_the_environment(there, store, monkeypatch):
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("http_proxy", store.url)
    blobs = BlobStore(there.model_copy(update={"s3_endpoint_url": "http://pictures.invalid"}))

    put(blobs)

    assert blobs.get("some/key") == DATA
    assert [path for _, path, *_ in store.requests] == ["http://pictures.invalid/pix/some/key"] * 2


def test_only_a_certificate_that_is_trusted_is_accepted(there, tmp_path, monkeypatch):
    certificate = tmp_path / "certificate.pem"
    with scripted_store(self_signed(certificate)) as store:
        there = there.model_copy(update={"s3_endpoint_url": store.url})
        for call in (put, lambda blobs: blobs.get("some/key")):
            with pytest.raises(StorageDown, match="SSLError"):
                call(BlobStore(there))

        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
        blobs = BlobStore(there)
        put(blobs)
        assert blobs.get("some/key") == DATA


def test_the_files_of_aws_may_name_the_certificates(there, tmp_path, monkeypatch):
    certificate, config = tmp_path / "certificate.pem", tmp_path / "config"
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    with scripted_store(self_signed(certificate)) as store:
        config.write_text(f"[default]\nca_bundle = {certificate}\n")
        blobs = BlobStore(there.model_copy(update={"s3_endpoint_url": store.url}))
        put(blobs)
        assert not blobs.exists("other/key")  # boto3 trusts the same certificates

        config.write_text("[default]\n")
        with pytest.raises(StorageDown, match="SSLError"):
            put(BlobStore(there.model_copy(update={"s3_endpoint_url": store.url})))


def self_signed(certificate: Path) -> ssl.SSLContext:
    """Make a certificate for 127.0.0.1, and write it to a file. Return the context of a server that has it."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(1))
    made = made.add_extension(address, critical=True).sign(key, hashes.SHA256())
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    both = certificate.with_name("server.pem")
    both.write_bytes(private + certificate.read_bytes())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(both)
    return context


def test_boto3_finds_out_why_a_request_is_refused(blobs, store):
    with pytest.raises(ObjectMissing):
        blobs.get("some/key")
    assert methods(store) == ["GET", "GET"]

    store.script = [403] * 2
    with pytest.raises(StorageRefused, match="GetObject: Failed"):
        blobs.get("some/key")

    for operation, call in {
        "HeadBucket": blobs.ping,
        "HeadObject": lambda: blobs.exists("some/key"),
        "DeleteObject": lambda: blobs.delete(["some/key"]),
    }.items():
        store.script = [403] * 2
        with pytest.raises(StorageRefused, match=operation):
            call()
