"""Files to pictures."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from pixtools.imaging import apng_frames, bit_depth, gif_frames, metadata_blocks
from pixtools.imaging.animation import alike, animated
from pixtools.imaging.codec_errors import decoding
from pixtools.imaging.color import normalise, to_srgb
from pixtools.imaging.color_profiles import profile
from pixtools.imaging.formats import HEAD_BYTES, sniff
from pixtools.imaging.header import frame_count, webp_size
from pixtools.imaging.icc_filter import MOST_BYTES
from pixtools.imaging.orientation import orientation, upright, upright_numbers, upright_size
from pixtools.imaging.picture import Notes, Picture, Size

# Times the size that is enough: at once its size a little sharpness is lost, at twice none that can be seen.
_ROOM = 2


def decode(data: bytes, enough: Size | None = None, *, deep: bool = False) -> Picture:
    """Decode all frames of an image file, turned upright; with all 16 bits, if asked, where a still has them.

    Where nobody needs more than `enough`, a JPEG comes out at a half, quarter or eighth of its size, which costs less.
    What `inspect` accepts fits its limits; that it decodes in time is for a deadline to see to. Raises
    UnsupportedType, or CorruptImage for anything that its decoder does not like, truncation included.
    """
    kind = sniff(data[:HEAD_BYTES])
    with decoding() as room:
        if kind == "GIF":
            return gif_frames.read(data)  # which knows neither profile nor orientation
        if kind == "WEBP":
            room.pixels = math.prod(webp_size(data))  # its decoder takes memory as it is opened
        with Image.open(io.BytesIO(data), formats=[kind]) as image:
            room.pixels = math.prod(image.size) * frame_count(image, kind)
            turn = orientation(image)  # before loading, as `inspect` asks: a PNG may have EXIF behind its pixels
            told = metadata_blocks.read(image, data)
            full = upright_size(image)
            drafted = _draft(image, enough if full == image.size else enough[::-1]) if enough else False
            has_profile = deep and profile(image, kind, data) is not None  # before loading, which forgets it
            picture = _frames(image, kind, data)
            numbers = _deep(data, kind, picture, has_profile=has_profile) if deep else None
    if picture.icc and len(picture.icc) > MOST_BYTES:
        picture, numbers = to_srgb(picture), None  # its colours stay, and files get no heavier than their pixels
    picture = replace(picture, notes=told, drafted_from=full if drafted else None)
    if numbers is not None:
        return Picture.shared(upright_numbers(numbers, turn)[None], replace(picture, frames=()))
    return picture.map(lambda frame: upright(frame, turn))


def _deep(data: bytes, kind: str, picture: Picture, *, has_profile: bool) -> NDArray[np.uint16] | None:
    """Return the numbers (H, W, C) of more than 8 bits behind a still: none where a profile has changed its pixels."""
    if picture.is_animated or has_profile != (picture.icc is not None):
        return None
    found = bit_depth.deep(data, kind)
    # A profile of RGB does not describe grey: see normalise.
    return found if found is None or picture.icc is None or found.shape[2] == len(picture.mode) else None


def read_notes(data: bytes) -> Notes:
    """Read what an image file says beside its pixels, without decoding these. Raises as `decode` does."""
    kind = sniff(data[:HEAD_BYTES])
    if kind == "GIF":
        return Notes()
    with decoding(), Image.open(io.BytesIO(data), formats=[kind]) as image:
        return metadata_blocks.read(image, data)


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
        return apng_frames.read(data, icc, image.info["loop"])
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
