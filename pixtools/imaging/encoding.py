"""Pictures to files."""

from __future__ import annotations

import io
from typing import Any

from pixtools.imaging import metadata_blocks
from pixtools.imaging.codec_errors import encoding
from pixtools.imaging.picture import Picture


def encode(picture: Picture, kind: str, **options: Any) -> bytes:
    """Encode a picture in Pillow's format `kind`, with all its frames where that has room for them.

    Of frames that look like the one before, PNG and WebP write none and show that one for longer: as seen, and in
    total time, an animation stays the same. AVIF, as Pillow writes it, has no number of loops and runs for ever.
    Beside the pixels, their colour profile and the picture's notes are written, as far as the format has room.
    Raises UnencodableImage when the format's own limits (WebP: 16,383 pixels a side) forbid it, and MemoryError.
    """
    if picture.is_animated and kind != "JPEG":
        options |= {
            "save_all": True,
            "append_images": picture.frames[1:],
            "duration": picture.durations,
            "loop": picture.loops,
        }
    out = io.BytesIO()
    with encoding(kind, picture.size):
        picture.image.save(
            out, format=kind, icc_profile=picture.icc, **metadata_blocks.blocks(picture.notes, kind), **options
        )
    return out.getvalue()
