"""Object storage. The same tests run on rclone, the S3 server of PixTools, and on moto, which behaves like AWS."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, unquote, urlsplit

import boto3
import httpx
import numpy as np
import pytest
import uuid6
from botocore.config import Config
from botocore.exceptions import InvalidRegionError
from moto.server import ThreadedMotoServer
from pydantic import SecretStr

from pixtools.blob_store import BlobStore, artifact_key, source_key
from pixtools.errors import ObjectMissing, StorageDown, StorageRefused
from pixtools.local import s3_server
from pixtools.local.home import Home
from pixtools.local.ports import free_port
from pixtools.settings import Settings


@pytest.fixture(scope="session")
def moto(settings: Settings) -> Iterator[Settings]:
    """Settings of a service whose object storage is moto."""
    server = ThreadedMotoServer("127.0.0.1", free_port(), verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    there = settings.model_copy(
        update={
            "s3_endpoint_url": endpoint,
            "s3_access_key_id": SecretStr("key"),
            "s3_secret_access_key": SecretStr("secret"),
        },
    )
    client = boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="key", aws_secret_access_key="secret"
    )
    client.create_bucket(Bucket=there.s3_bucket)
    client.close()
    yield there
    server.stop()


@pytest.fixture(params=["rclone", "moto"])
def blobs(request: pytest.FixtureRequest) -> BlobStore:
    return BlobStore(request.getfixturevalue("settings" if request.param == "rclone" else "moto"))


@pytest.fixture
def rclone(settings: Settings) -> BlobStore:
    return BlobStore(settings)


def download(url: str) -> httpx.Response:
    return httpx.get(url, trust_env=False)


def now() -> datetime:
    return datetime.now(UTC)


def test_a_store_that_is_up_answers(blobs):
    blobs.ping()


@pytest.mark.parametrize("server", ["settings", "moto"])
def test_a_missing_bucket_is_reported_and_named(request, server):
    there = request.getfixturevalue(server).model_copy(update={"s3_bucket": "no-such-bucket"})

    with pytest.raises(StorageRefused, match=r"no bucket no-such-bucket.*PIXTOOLS_S3_BUCKET"):
        BlobStore(there).ping()


def test_a_check_costs_the_same_for_ten_and_for_100_000_objects(settings, open_folder):
    # The files exist before the server starts, because rclone remembers the content of folders.
    home = Home(open_folder / "many")
    for bucket, count in (("few", 10), ("many", 100_000)):
        folder = home.path / "s3" / bucket / "sources" / "local"
        folder.mkdir(parents=True)
        for number in range(count):
            (folder / f"{number:064}").touch()
    server = s3_server.start(home, free_port())
    try:
        server.wait()
        there = {name.removeprefix("PIXTOOLS_").lower(): value for name, value in server.env.items()}
        few, many = (Settings(**vars(settings) | there | {"s3_bucket": bucket}) for bucket in ("few", "many"))
        ratio = seconds_of_a_check(many) / seconds_of_a_check(few)
    finally:
        server.stop()

    assert ratio < 10  # a listing takes a thousand times as long


def seconds_of_a_check(settings: Settings) -> float:
    """Return the time of the fastest of several checks."""
    blobs, times = BlobStore(settings), []
    for _ in range(10):
        started = time.perf_counter()
        blobs.ping()
        times.append(time.perf_counter() - started)
    return min(times)


@pytest.mark.parametrize("data", [b"", b"data", bytes(range(256)) * 1_000], ids=["empty", "short", "binary"])
def test_data_that_is_put_can_be_read(blobs, data):
    blobs.put("some/key", data, "image/png")

    assert blobs.get("some/key") == data


def test_an_open_file_can_be_put(blobs):
    blobs.put("some/file", io.BytesIO(b"from a file"), "image/png")

    assert blobs.get("some/file") == b"from a file"


def test_an_object_can_be_read_in_pieces(blobs):
    blobs.put("some/key", b"0123456789", "image/png")

    with blobs.open("some/key") as body:
        assert [body.read(4), body.read(4), body.read(4), body.read(4)] == [b"0123", b"4567", b"89", b""]


def test_a_large_file_is_stored_whole(blobs):
    data = np.random.default_rng(1).bytes(20_000_000)

    blobs.put("some/large", io.BytesIO(data), "image/tiff")

    digest = hashlib.sha256()
    with blobs.open("some/large") as body:
        while chunk := body.read(1 << 20):
            digest.update(chunk)
    assert digest.hexdigest() == hashlib.sha256(data).hexdigest()


def test_the_same_key_can_be_put_again(blobs):
    for _ in range(2):
        blobs.put("some/again", b"the same", "image/png")

    assert blobs.get("some/again") == b"the same"


@pytest.mark.parametrize("key", ["some/missing", "nowhere", "some"])
def test_reading_an_unknown_key_raises_object_missing(blobs, key):
    blobs.put("some/key", b"data", "image/png")

    with pytest.raises(ObjectMissing, match=key):
        blobs.get(key)


def test_only_whole_keys_exist(blobs):
    blobs.put("some/key", b"", "image/png")

    assert blobs.exists("some/key")
    for key in ("some/missing", "some", "some/ke", "nowhere"):
        assert not blobs.exists(key)


def test_deleted_objects_do_not_exist_and_can_be_deleted_again(blobs):
    for key in ("gone/1", "gone/2", "gone/3"):
        blobs.put(key, b"data", "image/png")

    blobs.delete(["gone/1", "gone/3", "gone/never was"])
    blobs.delete(["gone/1"])
    blobs.delete([])

    assert [blobs.exists(f"gone/{number}") for number in (1, 2, 3)] == [False, True, False]
    with pytest.raises(ObjectMissing):
        blobs.get("gone/1")


def test_objects_with_a_prefix_are_listed_by_the_bytes_of_their_keys(blobs):
    keys = [f"list/{name}" for name in ("a/2", "a/10", "a-b/1", "a.png", "B/1", "b/c/d", "ä/1", "a b/1", "z")]
    for key in [*keys, "listed", "other/1"]:
        blobs.put(key, b"data", "image/png")
    started = datetime.now(UTC)

    found = [blob for page in blobs.pages("list/") for blob in page]

    assert [blob.key for blob in found] == sorted(keys, key=str.encode)
    assert all(abs(blob.modified_at - started) < timedelta(minutes=1) for blob in found)


def test_an_unknown_prefix_has_no_objects(blobs):
    assert [blob for page in blobs.pages("nothing/here/") for blob in page] == []


def test_many_objects_are_listed_page_by_page(blobs):
    keys = [f"paged/{number % 7}/{number:04}" for number in range(1_050)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda key: blobs.put(key, b"", "image/png"), keys))

    pages = list(blobs.pages("paged/"))

    assert [blob.key for page in pages for blob in page] == sorted(keys)
    assert all(len(page) <= 1_000 for page in pages)


def test_each_job_and_each_try_has_its_own_key(blobs):
    one, other = uuid6.uuid7(), uuid6.uuid7()
    sources = {source_key("ann", "ab" * 32, job) for job in (one, other, one)}
    artifacts = {artifact_key("ann", "key", "png") for _ in range(3)}

    assert (len(sources), len(artifacts)) == (2, 3)
    key_of_0001 = f"sources/ann/{'ab' * 32}"  # version 0001 gave this key to all jobs of a picture
    blobs.put(key_of_0001, b"from version 0001", "image/png")
    for key in sources | artifacts:
        blobs.put(key, b"data", "image/png")
        assert blobs.get(key) == b"data"


def test_the_objects_of_an_owner_are_spread_over_many_folders():
    digests = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(2_000)]
    keys = [source_key("ann", digest, uuid6.uuid7()) for digest in digests]
    keys += [artifact_key("ann", digest, "png") for digest in digests]
    in_a_folder = Counter(key.rsplit("/", 1)[0] for key in keys)

    assert max(in_a_folder.values()) < 5
    assert all(key.startswith(("sources/ann/", "artifacts/ann/")) for key in keys)


def test_many_threads_can_use_the_store_at_once(blobs):
    def put_and_get(number: int) -> bool:
        data = f"object {number}".encode() * 1_000
        blobs.put(f"many/{number}", data, "image/png")
        return blobs.get(f"many/{number}") == data

    with ThreadPoolExecutor(16) as threads:
        assert all(threads.map(put_and_get, range(48)))


def test_many_threads_can_need_boto3_at_once(blobs):
    with ThreadPoolExecutor(16) as threads:
        assert not any(threads.map(lambda number: blobs.exists(f"missing/{number}"), range(16)))
        assert len(set(threads.map(lambda _: id(blobs._s3), range(16)))) == 1


def test_an_error_of_the_caller_is_not_translated(blobs):
    blobs.put("some/key", b"data", "image/png")

    with pytest.raises(FileNotFoundError), blobs.open("some/key"):
        raise FileNotFoundError("a file of the caller")


@pytest.mark.parametrize("name", ["IMG_1-web.webp", "größe 日本.webp", 'a "b"; c.webp', "it's 100%.webp"])
def test_a_url_downloads_the_object_under_its_name_and_type_without_credentials(blobs, name):
    blobs.put("some/picture", b"pixels", "application/octet-stream")

    url, _ = blobs.url("some/picture", name, "image/webp", now())
    answer = download(url)

    assert (answer.status_code, answer.content) == (200, b"pixels")
    assert answer.headers["content-type"] == "image/webp"
    kind, _, extended = answer.headers["content-disposition"].partition("; filename*=UTF-8''")
    assert kind.startswith('attachment; filename="')
    assert unquote(extended) == name


def test_the_local_store_reads_no_file_again_for_its_digest(rclone):
    """If asked, rclone would compute an MD5 for the ETag, which costs as much CPU time as the whole download."""
    rclone.put("some/picture", b"pixels", "image/webp")

    url, _ = rclone.url("some/picture", "a.webp", "image/webp", now())
    assert download(url).headers.get("etag", "").strip('"') == ""


def test_a_url_expires_after_its_time_to_live(blobs, settings):
    signed_at = now()
    url, expires_at = blobs.url("some/picture", "x.webp", "image/webp", signed_at)

    assert expires_at == signed_at + settings.url_ttl
    assert parse_qs(urlsplit(url).query)["X-Amz-Expires"] == [str(int(settings.url_ttl.total_seconds()))]


def test_a_url_has_the_public_address_of_the_store(settings):
    blobs = BlobStore(settings.model_copy(update={"s3_public_url": "https://pictures.example:8443"}))

    url, _ = blobs.url("some/picture", "x.webp", "image/webp", now())

    assert urlsplit(url).netloc == "pictures.example:8443"


ON_AWS = {"s3_endpoint_url": None, "s3_public_url": None, "s3_bucket": "pix"}


@pytest.mark.parametrize(
    ("changes", "address"),
    [
        ({}, None),  # the local server
        ({"s3_public_url": "https://pictures.example:8443/s3"}, "https://pictures.example:8443/s3/pixtools/"),
        (ON_AWS, "https://pix.s3.amazonaws.com/"),
        (ON_AWS | {"s3_region": "eu-central-1"}, None),
        (ON_AWS | {"s3_region": "cn-north-1"}, "https://pix.s3.cn-north-1.amazonaws.com.cn/"),
        (
            ON_AWS | {"s3_bucket": "my.pix", "s3_region": "eu-central-1"},
            "https://s3.eu-central-1.amazonaws.com/my.pix/",
        ),
    ],
)
def test_all_urls_begin_with_the_public_address_of_the_bucket(settings, changes, address):
    blobs = BlobStore(settings.model_copy(update=changes))

    url, _ = blobs.url("some/picture", "x.webp", "image/webp", now())

    assert url.startswith(f"{blobs.public_url}some/picture?")
    assert address in (None, blobs.public_url)


@pytest.mark.parametrize(
    "endpoint",
    [
        *("http://127.0.0.1:9000", "https://s3.example", "https://S3.Example//", "http://[::1]:9000/"),
        *("http://s3.example:80/some/path", "http://s3.example/some-path/", "http://user:word@s3.example"),
        *("http://s3.example/a b/ä+", "http://s3.example/a/../b", "HTTP://s3.example", "http://minio."),
    ],
)
def test_the_address_of_a_bucket_at_an_endpoint_is_that_of_boto3(settings, endpoint):
    config = Config(signature_version="s3v4", s3={"addressing_style": "path"})
    session = boto3.Session("key", "secret", region_name="us-east-1")
    client = session.client("s3", endpoint_url=endpoint, config=config)
    presigned = client.generate_presigned_url("get_object", {"Bucket": settings.s3_bucket, "Key": "x"})

    blobs = BlobStore(settings.model_copy(update={"s3_endpoint_url": endpoint, "s3_public_url": None}))
    assert blobs.public_url == presigned.partition("?")[0].removesuffix("x")


@pytest.mark.parametrize("bucket", ["pix", "my.Pix_2", "arn:aws:s3:us-east-1:123456789012:accesspoint/pix"])
def test_the_address_of_every_bucket_is_that_of_boto3(settings, bucket):
    blobs = BlobStore(settings.model_copy(update={"s3_endpoint_url": "http://s3.example", "s3_bucket": bucket}))
    presigned = blobs._s3.generate_presigned_url("get_object", {"Bucket": bucket, "Key": "x"})

    assert blobs.public_url == presigned.partition("?")[0].removesuffix("x")


@pytest.mark.parametrize("endpoint", ["127.0.0.1:9000", "minio", "http://my_minio:9000", "http://-minio", "http://"])
def test_a_wrong_endpoint_is_noticed_at_the_start(settings, endpoint):
    with pytest.raises(ValueError, match="Invalid endpoint"):
        BlobStore(settings.model_copy(update={"s3_endpoint_url": endpoint}))

    blobs = BlobStore(settings.model_copy(update={"s3_public_url": endpoint}))
    with pytest.raises(ValueError, match="Invalid endpoint"):
        _ = blobs.public_url


@pytest.mark.parametrize("changes", [{}, ON_AWS])
def test_a_wrong_region_is_noticed_at_the_start(settings, changes):
    with pytest.raises(InvalidRegionError):
        BlobStore(settings.model_copy(update=changes | {"s3_region": "us east"}))


def test_the_public_address_is_known_without_credentials(settings, monkeypatch):
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    without = ON_AWS | {"s3_access_key_id": None, "s3_secret_access_key": None}

    assert BlobStore(settings.model_copy(update=without)).public_url == "https://pix.s3.amazonaws.com/"


def test_an_object_cannot_be_read_without_a_signature(rclone, settings):
    rclone.put("some/picture", b"pixels", "image/webp")

    answer = download(f"{settings.s3_endpoint_url}/{settings.s3_bucket}/some/picture")

    assert answer.status_code in (400, 403)
    assert b"pixels" not in answer.content


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("some/picture", "some/secret", id="another object"),
        pytest.param("image%2Fwebp", "text%2Fhtml", id="another type"),
        pytest.param("x.webp", "x.html", id="another name"),
        pytest.param("X-Amz-Expires=900", "X-Amz-Expires=90000", id="a longer life"),
    ],
)
def test_a_changed_url_is_refused(rclone, old, new):
    rclone.put("some/picture", b"pixels", "image/webp")
    rclone.put("some/secret", b"secret", "image/webp")
    url, _ = rclone.url("some/picture", "x.webp", "image/webp", now())
    assert old in url
    assert download(url).status_code == 200

    answer = download(url.replace(old, new))

    assert answer.status_code == 403


def test_an_expired_url_is_refused(settings):
    blobs = BlobStore(settings.model_copy(update={"url_ttl": timedelta(seconds=-1)}))
    blobs.put("some/picture", b"pixels", "image/webp")
    url, _ = blobs.url("some/picture", "x.webp", "image/webp", now())

    assert download(url).status_code in (400, 403)


def test_a_store_that_cannot_be_reached_is_down(nowhere):
    blobs = BlobStore(nowhere)

    for call in (
        blobs.ping,
        lambda: blobs.get("some/key"),
        lambda: blobs.put("some/key", b"data", "image/png"),
        lambda: blobs.put("some/key", io.BytesIO(b"data"), "image/png"),
        lambda: blobs.exists("some/key"),
        lambda: blobs.delete(["some/key"]),
        lambda: list(blobs.pages("some/")),
    ):
        with pytest.raises(StorageDown):
            call()


def test_a_call_that_the_store_refuses_raises_storage_refused(settings):
    blobs = BlobStore(settings.model_copy(update={"s3_secret_access_key": SecretStr("wrong")}))

    for call in (
        blobs.ping,
        lambda: blobs.get("some/key"),
        lambda: blobs.put("some/key", b"data", "image/png"),
        lambda: blobs.exists("some/key"),
        lambda: list(blobs.pages("some/")),
    ):
        with pytest.raises(StorageRefused):
            call()


def test_a_url_can_be_signed_while_the_store_is_down(nowhere):
    url, _ = BlobStore(nowhere).url("some/picture", "x.webp", "image/webp", now())

    assert url.startswith(nowhere.s3_endpoint_url)


_LIGHT = """
import io, sys
from pixtools.blob_store import BlobStore
from pixtools.settings import Settings

blobs = BlobStore(Settings())
blobs.ping()
for data in (b"content", bytes(3 << 20)):
    blobs.put("light", io.BytesIO(data), "text/plain")
    assert blobs.exists("light") and blobs.get("light") == data
blobs.url("light", "light", "text/plain", blobs.signing_time())
blobs.delete(["light"])
heavy = ("boto3", "botocore.client", "botocore.session", "botocore.credentials")
print([name for name in heavy if name in sys.modules])
"""


def test_ordinary_calls_load_neither_boto3_nor_its_clients(settings):
    variables = {
        "PIXTOOLS_S3_ENDPOINT_URL": settings.s3_endpoint_url,
        "PIXTOOLS_S3_BUCKET": settings.s3_bucket,
        "PIXTOOLS_S3_ACCESS_KEY_ID": settings.s3_access_key_id.get_secret_value(),
        "PIXTOOLS_S3_SECRET_ACCESS_KEY": settings.s3_secret_access_key.get_secret_value(),
        "AWS_CONFIG_FILE": "/nonexistent",
        "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
        "PIXTOOLS_DATABASE_URL": settings.database_url.get_secret_value(),
        "PIXTOOLS_REDIS_URL": settings.redis_url.get_secret_value(),
    }
    run = subprocess.run(
        [sys.executable, "-c", _LIGHT], env={**os.environ, **variables}, capture_output=True, text=True, check=True
    )
    assert run.stdout == "[]\n"


@pytest.mark.parametrize("key", ["sources/a", "sources/ann/x y+ä~.png"])
def test_a_copy_has_the_same_bytes_and_leaves_the_original(blobs, key):
    blobs.put(key, b"bytes", "image/png")
    blobs.copy(key, f"{key}-copy")
    assert blobs.get(f"{key}-copy") == blobs.get(key) == b"bytes"


def test_an_object_that_does_not_exist_cannot_be_copied(blobs):
    with pytest.raises(ObjectMissing):
        blobs.copy("sources/none", "sources/copy")
