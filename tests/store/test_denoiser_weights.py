"""The denoiser loads its weights from the path or the S3 object that is given in the settings."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from safetensors.numpy import save

from pixtools.blob_store import BlobStore
from pixtools.denoising import dncnn
from pixtools.denoising.weight_source import load_weights
from pixtools.errors import StorageDown, WeightsUnusable

WEIGHTS = {name: np.full(shape, 0.5, np.float32) for name, shape in dncnn.array_shapes().items()}
FILE = save(WEIGHTS)
DIGEST = hashlib.sha256(FILE).hexdigest()


def naming(settings, weights, digest=DIGEST):
    return settings.model_copy(update={"denoise_weights": str(weights), "denoise_weights_sha256": digest})


def assert_come_from_the_file(weights):
    assert list(weights.arrays) == list(WEIGHTS)
    assert all((value == 0.5).all() for value in weights.arrays.values())


def test_without_a_name_the_shipped_weights_are_loaded(settings):
    for name, value in dncnn.load_shipped().arrays.items():
        np.testing.assert_array_equal(load_weights(settings).arrays[name], value)


def test_weights_are_read_from_a_path(settings, tmp_path):
    path = tmp_path / "own.safetensors"
    path.write_bytes(FILE)

    assert_come_from_the_file(load_weights(naming(settings, path)))


def test_weights_are_read_from_another_bucket(settings, own_bucket):
    assert own_bucket.s3_bucket != settings.s3_bucket
    BlobStore(own_bucket).put("models/own.safetensors", FILE, "application/octet-stream")

    assert_come_from_the_file(load_weights(naming(settings, f"s3://{own_bucket.s3_bucket}/models/own.safetensors")))


def test_a_missing_file_is_refused(settings, tmp_path):
    missing = tmp_path / "none.safetensors"

    with pytest.raises(WeightsUnusable, match=rf"Cannot read {missing}: .*Correct PIXTOOLS_DENOISE_WEIGHTS"):
        load_weights(naming(settings, missing))


def test_a_missing_object_is_refused(settings, own_bucket):
    name = f"s3://{own_bucket.s3_bucket}/none.safetensors"

    with pytest.raises(WeightsUnusable, match=rf"Cannot read {name}: .*Correct PIXTOOLS_DENOISE_WEIGHTS"):
        load_weights(naming(settings, name))


def test_a_missing_bucket_is_refused(settings):
    with pytest.raises(WeightsUnusable, match=r"Cannot read s3://no-such-bucket/a.safetensors: "):
        load_weights(naming(settings, "s3://no-such-bucket/a.safetensors"))


@pytest.mark.parametrize("name", ["s3://", "s3:///a.safetensors", "s3://models", "s3://models/"])
def test_an_address_without_a_bucket_or_key_is_refused(name, settings):
    with pytest.raises(WeightsUnusable, match=rf"{name} .*s3://bucket/key"):
        load_weights(naming(settings, name))


@pytest.mark.parametrize("name", ["https://host/a.safetensors", "S4://models/a.safetensors"])
def test_an_address_with_another_scheme_is_refused(name, settings):
    with pytest.raises(WeightsUnusable, match="s3://bucket/key"):
        load_weights(naming(settings, name))


def test_a_file_with_another_digest_is_refused(settings, own_bucket):
    BlobStore(own_bucket).put("own.safetensors", FILE, "application/octet-stream")
    name = f"s3://{own_bucket.s3_bucket}/own.safetensors"

    with pytest.raises(WeightsUnusable, match=rf"{name} has the SHA-256 {DIGEST}, not {'0f' * 32} as expected"):
        load_weights(naming(settings, name, digest="0f" * 32))


def test_the_error_is_retryable_if_s3_does_not_answer(nowhere):
    with pytest.raises(StorageDown):
        load_weights(naming(nowhere, "s3://models/own.safetensors"))
