"""Pictures to files."""

from __future__ import annotations

import io
from typing import Any

from pixtools.imaging.guard import encoding
from pixtools.imaging.picture import Picture


def encode(picture: Picture, kind: str, **options: Any) -> bytes:
    """Encode a picture in Pillow's format `kind`.

    Nothing but the pixels and their colour profile is written: EXIF, GPS and XMP stay behind.
    Raises UnencodableImage when the format's own limits (WebP: 16,383 pixels a side) forbid it, and MemoryError.
    """
    out = io.BytesIO()
    with encoding(kind, picture.size):
        picture.image.save(out, format=kind, icc_profile=picture.icc, **options)
    return out.getvalue()
