"""Encodes pictures to image files."""

from __future__ import annotations

import io
from typing import Any

from pixtools.imaging import metadata_blocks
from pixtools.imaging.codec_errors import encoding
from pixtools.imaging.picture import Picture


def encode(picture: Picture, format_name: str, **options: Any) -> bytes:
    """Encode the 8-bit frames, the colour profile and the metadata of a picture. Leave out what the format cannot hold.

    `format_name` is Pillow's name of the format, and `options` are passed to Pillow's encoder. A JPEG gets the first
    frame, and every other format gets all frames. If a frame equals the frame before, PNG and WebP store only one of
    the two, and show it for both durations. AVIF stores no number of loops, so an AVIF is repeated without end.

    Raises UnencodableImage if the picture exceeds a limit of the format, such as 16,383 pixels for each side of a WebP.
    Raises MemoryError if memory is exhausted.
    """
    if picture.is_animated and format_name != "JPEG":
        options |= {
            "save_all": True,
            "append_images": picture.frames[1:],
            "duration": picture.durations,
            "loop": picture.loops,
        }
    options |= metadata_blocks.encoder_options(picture.metadata, format_name)
    out = io.BytesIO()
    with encoding(format_name, picture.size):
        picture.image.save(out, format=format_name, icc_profile=picture.icc, **options)
    return out.getvalue()
