"""Decodes image files to pictures."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from pixtools.imaging import apng_frames, bit_depth, gif_frames, metadata_blocks
from pixtools.imaging.animation import animated, unify_modes
from pixtools.imaging.codec_errors import decoding
from pixtools.imaging.color import normalise, to_srgb
from pixtools.imaging.color_profiles import read_profile
from pixtools.imaging.formats import HEAD_BYTES, sniff
from pixtools.imaging.header import frame_count, webp_size
from pixtools.imaging.icc_filter import MOST_BYTES
from pixtools.imaging.orientation import orientation, upright, upright_array, upright_size
from pixtools.imaging.picture import Metadata, Picture, Size

# A JPEG is decoded at no less than this multiple of the needed size. At exactly the needed size, results would be
# slightly less sharp. At twice the needed size, no difference from the full size can be seen.
_MARGIN = 2


def decode(data: bytes, needed_size: Size | None = None, *, high_bit_depth: bool = False) -> Picture:
    """Decode all frames of an image file and turn them upright.

    If `needed_size` is given, a JPEG is decoded at the size that `reduced_size` returns. A smaller size takes less time
    and memory. If the JPEG was decoded at a smaller size, `reduced_from` of the picture holds the full size. If
    `high_bit_depth` is set and a still has more than 8 bits, `pixels_16` of the picture holds its 16-bit values.

    Raises UnsupportedType if the format is unknown, CorruptImage if the file is damaged or truncated, and MemoryError.
    This function does not check the size, so call `inspect` first. It does not limit the time either, so callers set a
    deadline. `memory_bounds.of_decoding` returns the memory that this function may take.
    """
    format_name = sniff(data[:HEAD_BYTES])
    with decoding() as memory_probe:
        if format_name == "GIF":
            return gif_frames.read(data)  # PixTools reads no profile, orientation or metadata blocks from a GIF
        if format_name == "WEBP":
            memory_probe.pixels = math.prod(webp_size(data))  # set now, because Image.open allocates the canvas
        with Image.open(io.BytesIO(data), formats=[format_name]) as image:
            memory_probe.pixels = math.prod(image.size) * frame_count(image, format_name)
            # Read the orientation before the pixels are loaded, as `inspect` does. In a PNG, EXIF may also stand after
            # the pixels, so loading might change the EXIF that is found.
            turn = orientation(image)
            metadata = metadata_blocks.read(image, data)
            full_size = upright_size(image)
            is_reduced = False
            if needed_size:
                is_reduced = _reduce(image, needed_size if full_size == image.size else needed_size[::-1])
            # Read the profile before `_frames` decodes the pixels, because `_frames` clears `image.info`.
            has_profile = high_bit_depth and read_profile(image, format_name, data) is not None
            picture = _frames(image, format_name, data)
            pixels_16 = _pixels_16(data, format_name, picture, has_profile=has_profile) if high_bit_depth else None
    if picture.icc and len(picture.icc) > MOST_BYTES:
        # Every result would contain this very large profile. Pixels in sRGB need no profile. The 16-bit values are
        # dropped, because they are not converted.
        picture, pixels_16 = to_srgb(picture), None
    picture = replace(picture, metadata=metadata, reduced_from=full_size if is_reduced else None)
    if pixels_16 is not None:
        return Picture.shared(upright_array(pixels_16, turn)[None], replace(picture, frames=()))
    return picture.map(lambda frame: upright(frame, turn))


def _pixels_16(data: bytes, format_name: str, picture: Picture, *, has_profile: bool) -> NDArray[np.uint16] | None:
    """Return the 16-bit values (H, W, C) of a still with more than 8 bits. Returns None for all other files.

    Also returns None if the 8-bit pixels were converted with the profile, or if the profile was dropped. The 16-bit
    values might then show other colours.
    """
    if picture.is_animated or has_profile != (picture.icc is not None):
        return None
    pixels_16 = bit_depth.read_16_bit(data, format_name)
    if pixels_16 is None or picture.icc is None:
        return pixels_16
    # `normalise` may have turned RGB into grey to keep a grey profile. A grey profile does not describe RGB values.
    return pixels_16 if pixels_16.shape[2] == len(picture.mode) else None


def read_metadata(data: bytes) -> Metadata:
    """Return the metadata blocks of an image file without decoding its pixels.

    Raises UnsupportedType if the format is unknown, CorruptImage if the header is damaged, and MemoryError.
    """
    format_name = sniff(data[:HEAD_BYTES])
    if format_name == "GIF":
        return Metadata()
    with decoding(), Image.open(io.BytesIO(data), formats=[format_name]) as image:
        return metadata_blocks.read(image, data)


def reduced_size(size: Size, needed_size: Size) -> Size:
    """Return the size at which `decode` decodes a JPEG of `size`: the full size, or 1/2, 1/4 or 1/8 of the full size.

    Each side of a reduced JPEG is at least twice as long as the matching side of `needed_size`. Pillow's `draft`
    computes the same sizes.
    """
    scale = min(side // (_MARGIN * needed) for side, needed in zip(size, needed_size, strict=True))
    divisor = next(divisor for divisor in (8, 4, 2, 1) if divisor <= max(1, scale))
    width, height = (-(-side // divisor) for side in size)
    return width, height


def _reduce(image: Image.Image, needed_size: Size) -> bool:
    """Make Pillow decode an opened JPEG at `reduced_size`. Return whether this size is smaller than the full size."""
    if not isinstance(image, JpegImageFile):
        return False
    size = image.size
    image.draft(None, (_MARGIN * needed_size[0], _MARGIN * needed_size[1]))
    return image.size != size


def _frames(image: Image.Image, format_name: str, data: bytes) -> Picture:
    """Decode all frames of an opened image. The orientation is not applied."""
    icc = read_profile(image, format_name, data)
    if format_name == "PNG" and getattr(image, "is_animated", False):
        return apng_frames.read(data, icc, image.info["loop"])
    count, loops = frame_count(image, format_name), int(image.info.get("loop", 0))
    if count == 1:
        picture = normalise(image, icc)
        # Copy the pixels if the file has more pages, because Pillow's encoders save all pages of an opened file.
        # Counting the pages of a TIFF is slow, so the pixels of a TIFF are always copied.
        has_more = format_name == "TIFF" or getattr(image, "n_frames", 1) > 1
        return picture.map(Image.Image.copy) if has_more and picture.image is image else picture
    frames, durations = [], []
    for at in range(count):
        image.seek(at)
        image.load()
        durations.append(image.info["duration"])
        frames.append(normalise(image.copy(), icc))
    return animated(*unify_modes(frames), durations, loops)
