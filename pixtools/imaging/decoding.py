"""Files to pictures."""

from __future__ import annotations

import io
import math
from dataclasses import replace

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from pixtools.imaging import apng, gif, notes
from pixtools.imaging.animation import alike, animated
from pixtools.imaging.color import normalise, to_srgb
from pixtools.imaging.formats import HEAD_BYTES, sniff
from pixtools.imaging.guard import decoding
from pixtools.imaging.header import frame_count, webp_size
from pixtools.imaging.icc import MOST_BYTES
from pixtools.imaging.orientation import orientation, upright, upright_size
from pixtools.imaging.picture import Picture, Size
from pixtools.imaging.profiles import profile

# Times the size that is enough: at once its size a little sharpness is lost, at twice none that can be seen.
_ROOM = 2


def decode(data: bytes, enough: Size | None = None) -> Picture:
    """Decode all frames of an image file, turned upright.

    Where nobody needs more than `enough`, a JPEG comes out at a half, quarter or eighth of its size, which costs less.
    What `inspect` accepts fits its limits; that it decodes in time is for a deadline to see to. Raises
    UnsupportedType, or CorruptImage for anything that its decoder does not like, truncation included.
    """
    kind = sniff(data[:HEAD_BYTES])
    with decoding() as room:
        if kind == "GIF":
            return gif.read(data)  # which knows neither profile nor orientation
        if kind == "WEBP":
            room.pixels = math.prod(webp_size(data))  # its decoder takes memory as it is opened
        with Image.open(io.BytesIO(data), formats=[kind]) as image:
            room.pixels = math.prod(image.size) * frame_count(image, kind)
            turn = orientation(image)  # before loading, as `inspect` asks: a PNG may have EXIF behind its pixels
            told = notes.read(image, data)
            full = upright_size(image)
            drafted = _draft(image, enough if full == image.size else enough[::-1]) if enough else False
            picture = _frames(image, kind, data)
    if picture.icc and len(picture.icc) > MOST_BYTES:
        picture = to_srgb(picture)  # its colours stay, and files get no heavier than their pixels
    picture = replace(picture, notes=told, drafted_from=full if drafted else None)
    return picture.map(lambda frame: upright(frame, turn))


def drafted_size(size: Size, enough: Size) -> Size:
    """Return the size at which a JPEG of `size` is decoded; Pillow decides in the same way."""
    scale = min(side // (_ROOM * least) for side, least in zip(size, enough, strict=True))
    divisor = next(divisor for divisor in (8, 4, 2, 1) if divisor <= max(1, scale))
    width, height = (-(-side // divisor) for side in size)
    return width, height


def _draft(image: Image.Image, enough: Size) -> bool:
    """Have a JPEG decoded smaller, if that leaves it large enough; say whether it will be."""
    if not isinstance(image, JpegImageFile):
        return False
    size = image.size
    image.draft(None, (_ROOM * enough[0], _ROOM * enough[1]))
    return image.size != size


def _frames(image: Image.Image, kind: str, data: bytes) -> Picture:
    icc = profile(image, kind, data)
    if kind == "PNG" and getattr(image, "is_animated", False):
        return apng.read(data, icc, image.info["loop"])
    count, loops = frame_count(image, kind), int(image.info.get("loop", 0))
    if count == 1:
        picture = normalise(image, icc)
        # On its own: encoders walk through all that a file holds, and would come to its further pages.
        has_more = kind == "TIFF" or getattr(image, "n_frames", 1) > 1  # a TIFF is slow to count
        return picture.map(Image.Image.copy) if has_more and picture.image is image else picture
    frames, durations = [], []
    for at in range(count):
        image.seek(at)
        image.load()
        durations.append(image.info["duration"])
        frames.append(normalise(image.copy(), icc))
    return animated(*alike(frames), durations, loops)
