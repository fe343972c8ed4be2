"""The class `Picture`, which is the result of every decoder and the input of every encoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Size = tuple[int, int]
"""Width and height in pixels. The size of a picture is its size after it is turned upright."""


def megapixels(size: Size | None) -> float:
    """Return the number of megapixels of a size. Return 0 for None."""
    return size[0] * size[1] / 1e6 if size else 0.0


@dataclass(frozen=True)
class Metadata:
    """The metadata blocks of a file, as raw bytes. A block that the file does not have is empty."""

    exif: bytes = b""  # a TIFF structure, without the prefix `Exif\0\0` that EXIF has in a JPEG
    xmp: bytes = b""  # XML
    iptc: bytes = b""  # IIM datasets


@dataclass(frozen=True)
class Picture:
    """Upright 8-bit frames. All frames have one size and one mode: L, LA, RGB or RGBA. A still has one frame.

    `icc` is the profile that describes the pixels. Pixels without a profile are sRGB, and grey pixels without a profile
    have the tone curve of sRGB.

    `pixels_16` holds the 16-bit values of a still: uint16 (1, H, W, C), with the same channels as the frame. The frame
    holds these values rounded to 8 bits. After decoding, `pixels_16` is None unless the caller asked for 16-bit values
    and the file has more than 8 bits. Every change of the frames removes `pixels_16`.
    """

    frames: tuple[Image.Image, ...]
    icc: bytes | None = None
    metadata: Metadata = Metadata()
    durations: tuple[int, ...] = ()  # how long each frame is shown, in milliseconds; empty for a still
    loops: int = 0  # how often an animation is shown; 0 means without end
    reduced_from: Size | None = None  # the full size, if `decode` decoded a JPEG at a smaller size
    pixels_16: NDArray[np.uint16] | None = field(default=None, repr=False, compare=False)

    @classmethod
    def still(cls, image: Image.Image, icc: bytes | None = None) -> Picture:
        """Return a picture with one frame."""
        return cls((image,), icc)

    @property
    def image(self) -> Image.Image:
        """The first frame. A still has only this frame."""
        return self.frames[0]

    @property
    def size(self) -> Size:
        """The width and the height of every frame, in pixels."""
        return self.image.size

    @property
    def mode(self) -> str:
        """Pillow's mode of every frame: L, LA, RGB or RGBA; P after `indexed`."""
        return self.image.mode

    @property
    def has_alpha(self) -> bool:
        """Whether the mode has an alpha channel."""
        return self.mode in ("LA", "RGBA")

    @property
    def is_animated(self) -> bool:
        """Whether there is more than one frame."""
        return len(self.frames) > 1

    def first(self) -> Picture:
        """Return the first frame as a still."""
        return replace(self, frames=self.frames[:1], durations=(), loops=0) if self.is_animated else self

    def map(self, change: Callable[[Image.Image], Image.Image]) -> Picture:
        """Return the picture with `change` applied to each frame, without 16-bit values."""
        return replace(self, frames=tuple(map(change, self.frames)), pixels_16=None)

    def in_8_bit(self) -> Picture:
        """Return the picture without its 16-bit values."""
        return replace(self, pixels_16=None)

    def share(self) -> tuple[NDArray[np.uint8] | NDArray[np.uint16], Picture]:
        """Return the pixels as one array, and a description, which is this picture without pixels.

        Ray passes an array between processes of a node without a copy, but pickles Pillow's images. `shared` makes a
        picture from the array and the description.

        The array has the shape (N, H, W, C), with N frames and C from 1 to 4. If the picture has 16-bit values, the
        array is `pixels_16`. Otherwise the array is uint8.
        """
        if self.pixels_16 is not None:
            return self.pixels_16, replace(self, frames=(), pixels_16=None)
        arrays = [np.asarray(frame) for frame in self.frames]  # (H, W) or (H, W, C)
        pixels = arrays[0][None] if len(arrays) == 1 else np.stack(arrays)
        return pixels if pixels.ndim == 4 else pixels[..., None], replace(self, frames=())  # noqa: PLR2004

    @classmethod
    def shared(cls, pixels: NDArray[np.uint8] | NDArray[np.uint16], description: Picture) -> Picture:
        """Return the picture whose `share` returned `pixels` and `description`."""
        if pixels.dtype == np.uint16:
            pixels_16 = cast("NDArray[np.uint16]", pixels)
            return replace(cls.shared(_in_8_bit(pixels_16), description), pixels_16=pixels_16)
        grey = pixels.shape[3] == 1
        return replace(
            description, frames=tuple(Image.fromarray(frame[:, :, 0] if grey else frame) for frame in pixels)
        )


def _in_8_bit(pixels_16: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Round 16-bit values (N, H, W, C) to the nearest 8-bit values.

    Rounding needs uint32. The rows are rounded one by one, because a uint32 copy of the whole array would take twice
    the memory of the array.
    """
    pixels_8 = np.empty(pixels_16.shape, dtype=np.uint8)
    for frame_16, frame_8 in zip(pixels_16, pixels_8, strict=True):
        for row_16, row_8 in zip(frame_16, frame_8, strict=True):
            row_8[...] = (row_16.astype(np.uint32) + 128) // 257
    return pixels_8
