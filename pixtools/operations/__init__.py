"""The registry of operations. To add an operation, add a file to this package and an entry to `OPERATIONS`."""

from __future__ import annotations

from pixtools.operations.avif import AVIF
from pixtools.operations.base.kinds import AnyOperation
from pixtools.operations.blur import BLUR
from pixtools.operations.crop import CROP
from pixtools.operations.denoise import DENOISE
from pixtools.operations.flip import FLIP
from pixtools.operations.grayscale import GRAYSCALE
from pixtools.operations.jpg import JPG
from pixtools.operations.metadata import METADATA
from pixtools.operations.png import PNG
from pixtools.operations.resize import RESIZE
from pixtools.operations.rotate import ROTATE
from pixtools.operations.sharpen import SHARPEN
from pixtools.operations.watermark import WATERMARK
from pixtools.operations.webp import WEBP
from pixtools.operations.zip import ZIP

OPERATIONS: dict[str, AnyOperation] = {
    operation.name: operation
    for operation in (
        JPG, PNG, WEBP, AVIF, DENOISE, RESIZE, CROP, ROTATE, FLIP, BLUR, SHARPEN, GRAYSCALE, WATERMARK, METADATA, ZIP,
    )
}  # fmt: skip
"""All operations by name, in the order of the page."""


def get(name: str) -> AnyOperation:
    """Return the operation with this name. Raises KeyError if there is no such operation."""
    return OPERATIONS[name]
