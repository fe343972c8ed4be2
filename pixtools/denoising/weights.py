"""Where the denoiser's weights come from: those of the project, or a file that the settings name."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from pixtools.blob_store import BlobStore
from pixtools.dncnn import Weights, load, shipped
from pixtools.errors import ObjectMissing, WeightsUnusable
from pixtools.settings import Settings


def obtain(settings: Settings) -> Weights:
    """Read the weights; raises WeightsUnusable, and what object storage raises when it cannot be asked."""
    name = settings.denoise_weights
    if name is None:
        return shipped()
    return load(_read(name, settings), name, settings.denoise_weights_sha256)


def _read(name: str, settings: Settings) -> bytes:
    address = urlsplit(name)
    try:
        if address.scheme == "s3":
            blobs = BlobStore(settings.model_copy(update={"s3_bucket": address.netloc}))
            return blobs.get(address.path.lstrip("/"))
        return Path(name).read_bytes()
    except (OSError, ObjectMissing) as error:
        raise WeightsUnusable(f"Cannot read {name}: {error}. Correct PIXTOOLS_DENOISE_WEIGHTS.") from error
