"""The denoiser's weights, from where the settings say that they are."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from safetensors.numpy import save

from pixtools.blob_store import BlobStore
from pixtools.denoising import dncnn
from pixtools.denoising.weight_source import obtain
from pixtools.errors import StorageDown, WeightsUnusable

WEIGHTS = {name: np.full(shape, 0.5, np.float32) for name, shape in dncnn.shapes().items()}
FILE = save(WEIGHTS)
DIGEST = hashlib.sha256(FILE).hexdigest()


def naming(settings, weights, digest=DIGEST):
    return settings.model_copy(update={"denoise_weights": str(weights), "denoise_weights_sha256": digest})


def assert_are_those_of_the_file(found):
    assert list(found.arrays) == list(WEIGHTS)
    assert all((value == 0.5).all() for value in found.arrays.values())


def test_without_a_name_they_are_those_that_are_shipped(settings):
    for name, value in dncnn.shipped().arrays.items():
        np.testing.assert_array_equal(obtain(settings).arrays[name], value)


def test_they_are_read_from_a_path(settings, tmp_path):
    path = tmp_path / "own.safetensors"
    path.write_bytes(FILE)

    assert_are_those_of_the_file(obtain(naming(settings, path)))


def test_they_are_read_from_a_bucket_of_their_own(settings, own_bucket):
    assert own_bucket.s3_bucket != settings.s3_bucket
    BlobStore(own_bucket).put("models/own.safetensors", FILE, "application/octet-stream")

    assert_are_those_of_the_file(obtain(naming(settings, f"s3://{own_bucket.s3_bucket}/models/own.safetensors")))


def test_a_missing_file_is_refused(settings, tmp_path):
    missing = tmp_path / "none.safetensors"

    with pytest.raises(WeightsUnusable, match=rf"Cannot read {missing}: .*Correct PIXTOOLS_DENOISE_WEIGHTS"):
        obtain(naming(settings, missing))


def test_a_missing_object_is_refused(settings, own_bucket):
    name = f"s3://{own_bucket.s3_bucket}/none.safetensors"

    with pytest.raises(WeightsUnusable, match=rf"Cannot read {name}: .*Correct PIXTOOLS_DENOISE_WEIGHTS"):
        obtain(naming(settings, name))


def test_a_missing_bucket_is_refused(settings):
    with pytest.raises(WeightsUnusable, match=r"Cannot read s3://no-such-bucket/a.safetensors: "):
        obtain(naming(settings, "s3://no-such-bucket/a.safetensors"))


@pytest.mark.parametrize("name", ["s3://", "s3:///a.safetensors", "s3://models", "s3://models/"])
def test_an_address_without_a_bucket_or_key_is_refused(name, settings):
    with pytest.raises(WeightsUnusable, match=rf"{name} .*s3://bucket/key"):
        obtain(naming(settings, name))


@pytest.mark.parametrize("name", ["https://host/a.safetensors", "S4://models/a.safetensors"])
def test_an_address_of_another_kind_is_refused(name, settings):
    with pytest.raises(WeightsUnusable, match="s3://bucket/key"):
        obtain(naming(settings, name))


def test_a_file_of_another_digest_is_refused(settings, own_bucket):
    BlobStore(own_bucket).put("own.safetensors", FILE, "application/octet-stream")
    name = f"s3://{own_bucket.s3_bucket}/own.safetensors"

    with pytest.raises(WeightsUnusable, match=rf"{name} has the SHA-256 {DIGEST}, not {'0f' * 32} as expected"):
        obtain(naming(settings, name, digest="0f" * 32))


def test_where_s3_is_away_the_error_says_that_it_may_pass(nowhere):
    with pytest.raises(StorageDown):
        obtain(naming(nowhere, "s3://models/own.safetensors"))
