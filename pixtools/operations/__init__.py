"""The registry: an operation is one file here and one line below."""

from __future__ import annotations

from pixtools.operations.avif import AVIF
from pixtools.operations.base import AnyOperation
from pixtools.operations.jpg import JPG
from pixtools.operations.metadata import METADATA
from pixtools.operations.png import PNG
from pixtools.operations.resize import RESIZE
from pixtools.operations.webp import WEBP
from pixtools.operations.zip import ZIP

OPERATIONS: dict[str, AnyOperation] = {
    operation.name: operation for operation in (JPG, PNG, WEBP, AVIF, RESIZE, METADATA, ZIP)
}


def get(name: str) -> AnyOperation:
    return OPERATIONS[name]
