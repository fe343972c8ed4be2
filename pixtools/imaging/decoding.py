"""Files to pictures."""

from __future__ import annotations

import io
from dataclasses import replace

from PIL import Image

from pixtools.imaging import apng, gif, notes
from pixtools.imaging.animation import animated
from pixtools.imaging.color import normalise
from pixtools.imaging.formats import HEAD_BYTES, sniff
from pixtools.imaging.guard import decoding
from pixtools.imaging.header import frame_count
from pixtools.imaging.orientation import orientation, upright
from pixtools.imaging.picture import Picture
from pixtools.imaging.profiles import profile


def decode(data: bytes) -> Picture:
    """Decode all frames of an image file, turned upright.

    What `inspect` accepts is safe to decode. Raises UnsupportedType, or CorruptImage for anything that its decoder
    does not like, truncation included.
    """
    kind = sniff(data[:HEAD_BYTES])
    with decoding():
        if kind == "GIF":
            return gif.read(data)  # which knows neither profile nor orientation
        with Image.open(io.BytesIO(data), formats=[kind]) as image:
            turn = orientation(image)  # before loading, as `inspect` asks: a PNG may have EXIF behind its pixels
            told = notes.read(image, data)
            picture = _frames(image, kind, data)
    return replace(picture, notes=told).map(lambda frame: upright(frame, turn))


def _frames(image: Image.Image, kind: str, data: bytes) -> Picture:
    icc = profile(image, kind, data)
    if kind == "PNG" and getattr(image, "is_animated", False):
        return apng.read(data, icc, image.info["loop"])
    count, loops = frame_count(image, kind), int(image.info.get("loop", 0))
    if count == 1:
        image.load()
        # On its own: encoders walk through all that a file holds, and would come to its further pages.
        has_more = kind == "TIFF" or getattr(image, "n_frames", 1) > 1  # a TIFF is slow to count
        return normalise(image.copy() if has_more else image, icc)
    frames, durations = [], []
    for at in range(count):
        image.seek(at)
        image.load()
        durations.append(image.info["duration"])
        picture = normalise(image.copy(), icc)
        frames.append(picture.image)
    return animated(frames, durations, loops, picture.icc)
