"""Reads finished files as a viewer shows them. Pillow decodes the files, and `color_math` applies their profiles."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from color_math import SRGB, Pixels, converted_8_bit, read_grey_profile, read_profile
from PIL import Image, ImageSequence


@dataclass(frozen=True)
class Seen:
    """A file as a viewer shows it. `frames` are uint8 (H, W, 3), or (H, W, 4) with alpha, in sRGB."""

    frames: tuple[Pixels, ...]
    icc: bytes | None
    durations: tuple[int, ...]
    tags: dict[int, object]

    @property
    def has_alpha(self) -> bool:
        """Whether any pixel is transparent."""
        return self.frames[0].shape[-1] == 4


def read_back(data: bytes) -> Seen:
    """Decode all frames of a file and convert them to sRGB."""
    with Image.open(io.BytesIO(data)) as image:
        icc, tags = image.info.get("icc_profile"), dict(image.getexif())
        frames, durations = [], []
        for frame in ImageSequence.Iterator(image):
            frame.load()
            durations.append(int(frame.info.get("duration", 0)))
            frames.append(_in_srgb(frame, icc))
    return Seen(tuple(frames), icc, tuple(durations) if len(frames) > 1 else (), tags)


def _in_srgb(frame: Image.Image, icc: bytes | None) -> Pixels:
    pixels = np.asarray(frame.convert("RGBA"))
    if pixels[..., 3].min() == 255:  # no pixel is transparent: the file of an opaque animation may still have alpha
        pixels = pixels[..., :3]
    if icc is None:
        return pixels
    space = read_grey_profile(icc) if icc[16:20] == b"GRAY" else read_profile(icc)
    colors = converted_8_bit(pixels[..., :3], space, SRGB)
    return np.dstack([colors, pixels[..., 3]]) if pixels.shape[-1] == 4 else colors


def composed(pixels: Pixels, ground: int) -> Pixels:
    """Return the pixels drawn on a grey background, (H, W, 3). `ground` is the grey value, from 0 to 255."""
    if pixels.shape[-1] == 3:
        return pixels
    share = pixels[..., 3:] / 255
    return (pixels[..., :3] * share + ground * (1 - share)).round().astype(np.uint8)
