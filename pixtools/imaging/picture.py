"""The picture: what every decoder makes and every encoder takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Size = tuple[int, int]
"""Width and height in pixels, upright."""


def megapixels(size: Size | None) -> float:
    """Return millions of pixels, 0 for None."""
    return size[0] * size[1] / 1e6 if size else 0.0


@dataclass(frozen=True)
class Notes:
    """What a file says beside its pixels, in the blocks that it came in; empty where it says nothing."""

    exif: bytes = b""  # a TIFF structure, without the `Exif\\0\\0` that JPEG puts in front
    xmp: bytes = b""
    iptc: bytes = b""  # IIM datasets


@dataclass(frozen=True)
class Picture:
    """Upright 8-bit frames, all of one size and of one mode: L, LA, RGB or RGBA. A still has one frame.

    `deep` are the numbers of 16 bits of which a still's frame is rounded, where they were asked for and the file has
    them: uint16 (1, H, W, C), C from 1 to 4 as the mode has channels. What changes pixels drops them.
    `icc` is the profile that describes the pixels; without one they are sRGB, or grey of its curve.
    """

    frames: tuple[Image.Image, ...]
    icc: bytes | None = None
    notes: Notes = Notes()
    durations: tuple[int, ...] = ()  # milliseconds that each frame is shown; empty for a still
    loops: int = 0  # how often an animation is shown; 0: for ever
    drafted_from: Size | None = None  # the size in the file, where decoding made it smaller: see decode
    deep: NDArray[np.uint16] | None = field(default=None, repr=False, compare=False)

    @classmethod
    def still(cls, image: Image.Image, icc: bytes | None = None) -> Picture:
        return cls((image,), icc)

    @property
    def image(self) -> Image.Image:
        """The first frame: all of a still."""
        return self.frames[0]

    @property
    def size(self) -> Size:
        return self.image.size

    @property
    def mode(self) -> str:
        return self.image.mode

    @property
    def has_alpha(self) -> bool:
        return self.mode in ("LA", "RGBA")

    @property
    def is_animated(self) -> bool:
        return len(self.frames) > 1

    def first(self) -> Picture:
        """Return the first frame as a still."""
        return replace(self, frames=self.frames[:1], durations=(), loops=0) if self.is_animated else self

    def map(self, change: Callable[[Image.Image], Image.Image]) -> Picture:
        """Return the picture with each frame changed in the same way."""
        return replace(self, frames=tuple(map(change, self.frames)), deep=None)

    def in_8_bit(self) -> Picture:
        return replace(self, deep=None)

    def share(self) -> tuple[NDArray[np.uint8] | NDArray[np.uint16], Picture]:
        """Return (N, H, W, C), C from 1 to 4, and all else: what travels between processes without a copy.

        uint16 where the picture is deep, from which its frames follow; else uint8.
        """
        if self.deep is not None:
            return self.deep, replace(self, frames=(), deep=None)
        arrays = [np.asarray(frame) for frame in self.frames]  # (H, W) or (H, W, C)
        frames = arrays[0][None] if len(arrays) == 1 else np.stack(arrays)
        return frames if frames.ndim == 4 else frames[..., None], replace(self, frames=())  # noqa: PLR2004

    @classmethod
    def shared(cls, frames: NDArray[np.uint8] | NDArray[np.uint16], rest: Picture) -> Picture:
        """Return the picture of which these are the two parts."""
        if frames.dtype == np.uint16:
            deep = cast("NDArray[np.uint16]", frames)
            return replace(cls.shared(_in_8_bit(deep), rest), deep=deep)
        grey = frames.shape[3] == 1
        return replace(rest, frames=tuple(Image.fromarray(frame[:, :, 0] if grey else frame) for frame in frames))


def _in_8_bit(deep: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Return the nearest numbers of 8 bits, row by row: wide enough to round in, the whole would take twice as much."""
    found = np.empty(deep.shape, dtype=np.uint8)
    for frame, made in zip(deep, found, strict=True):
        for row, out in zip(frame, made, strict=True):
            out[...] = (row.astype(np.uint32) + 128) // 257
    return found
