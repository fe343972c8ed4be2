"""Files to pictures."""

from __future__ import annotations

import io

from PIL import Image

from pixtools.imaging.color import normalise
from pixtools.imaging.formats import HEAD_BYTES, sniff
from pixtools.imaging.guard import decoding
from pixtools.imaging.orientation import orientation, upright
from pixtools.imaging.picture import Picture


def decode(data: bytes) -> Picture:
    """Decode the first frame of an image file, turned upright.

    Raises UnsupportedType, or CorruptImage for anything that its decoder does not like, truncation included.
    """
    with decoding(), Image.open(io.BytesIO(data), formats=[sniff(data[:HEAD_BYTES])]) as image:
        image.load()
        turn = orientation(image)
        picture = normalise(image, image.info.get("icc_profile"))
    return picture.map(lambda frame: upright(frame, turn))
