"""Loads the denoiser's weights: the shipped weights, or the file given in the settings."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from pixtools.blob_store import BlobStore
from pixtools.denoising.dncnn import Weights, load_shipped, parse
from pixtools.errors import ObjectMissing, StorageRefused, WeightsUnusable
from pixtools.settings import Settings


def load_weights(settings: Settings) -> Weights:
    """Load the weights at `settings.denoise_weights`. If this setting is None, load the shipped weights.

    Raises WeightsUnusable if the weights cannot be used, and StorageDown if S3 does not answer.
    """
    name = settings.denoise_weights
    if name is None:
        return load_shipped()
    return parse(_read(name, settings), name, settings.denoise_weights_sha256)


def _read(name: str, settings: Settings) -> bytes:
    address = urlsplit(name)
    if "://" in name and not (address.scheme == "s3" and address.netloc and address.path.strip("/")):
        raise WeightsUnusable(
            f"{name} is not a valid address: set PIXTOOLS_DENOISE_WEIGHTS to a path, or to s3://bucket/key"
        )
    try:
        if "://" in name:
            blobs = BlobStore(settings.model_copy(update={"s3_bucket": address.netloc}))
            return blobs.get(address.path.removeprefix("/"))
        return Path(name).read_bytes()
    except (OSError, ObjectMissing, StorageRefused) as error:
        raise WeightsUnusable(f"Cannot read {name}: {error}. Correct PIXTOOLS_DENOISE_WEIGHTS.") from error
