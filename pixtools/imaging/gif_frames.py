"""Reads GIFs.

This module finds the frames and rewrites each frame as a separate GIF file in memory. Pillow decodes these files, and
`animation` composes the frames. Pillow alone is not enough, for three reasons:

- Pillow must decode all earlier frames to find a frame and its size.
- If a frame is larger than the canvas, Pillow allocates memory for it as soon as the file is opened.
- Pillow composes frames in another way than browsers do.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image

from pixtools.errors import CorruptImage
from pixtools.imaging.animation import Disposal, Layer, compose
from pixtools.imaging.color import normalise
from pixtools.imaging.picture import Picture, Size

_IMAGE, _EXTENSION = 0x2C, 0x21
_CONTROL, _APPLICATION = b"\xf9", b"\xff"
# Extensions and blocks are limited, because each of them takes time. Real pictures have only a few extensions for each
# frame. A full block has 255 bytes, so a million full blocks have 255 MB.
_MAX_EXTENSIONS, _MAX_BLOCKS = 20_000, 1_000_000
_NOT_ZERO = re.compile(rb"[^\0]")
_DISPOSALS = {2: Disposal.CLEAR, 3: Disposal.RESTORE}


@dataclass(frozen=True)
class Frame:
    """The position of a frame on the canvas, and the position of its data in the file."""

    left: int
    top: int
    size: Size
    body: slice  # range of the file that holds flags, palette and pixels
    control: bytes  # four bytes of its graphic control extension: flags, delay, transparent colour


@dataclass(frozen=True)
class Gif:
    """The structure of a GIF, read without decoding pixels."""

    size: Size  # of the canvas, enlarged to hold the first frame
    palette: bytes  # flags, background, aspect ratio, and the colours of frames without a palette
    frames: tuple[Frame, ...]
    loops: int
    broken: bool  # whether the bytes after the last frame are neither a block nor the trailer

    @property
    def extent(self) -> Size:
        """The largest width and the largest height among the canvas and all frames. A frame may exceed the canvas."""
        sizes = [self.size, *(frame.size for frame in self.frames)]
        return max(width for width, _ in sizes), max(height for _, height in sizes)


def parse(data: bytes, max_frames: int | None = None) -> Gif:
    """Find the frames of a GIF without decoding them. Stop after `max_frames` frames.

    If a file is truncated, its incomplete last frame counts too. Raises EOFError if there is no frame, struct.error if
    the header is incomplete, and CorruptImage if there are too many blocks.
    """
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    position = 13 + _palette_bytes(flags)
    palette, control, loops, frames = data[10:position], bytes(4), 1, []
    for start, end in _blocks(data, position):
        position = end
        if data[start] == _IMAGE:
            left, top, frame_width, frame_height = struct.unpack_from("<HHHH", data, start + 1)
            frames.append(Frame(left, top, (frame_width, frame_height), slice(start + 9, end), control))
            control = bytes(4)
            if len(frames) == max_frames:
                break
            continue
        label, body = data[start + 1 : start + 2], data[start + 3 : start + 22]
        if label == _CONTROL and len(body) >= 4:  # noqa: PLR2004
            control = body[:4]
        elif label == _APPLICATION and body.startswith((b"NETSCAPE2.0\3\1", b"ANIMEXTS1.0\3\1")):
            repeats = int.from_bytes(body[13:15], "little")
            loops = repeats + 1 if repeats else 0  # a GIF stores how often it is repeated after the first time
    if not frames:
        raise EOFError("it has no frame")
    first = frames[0]
    canvas = (max(width, first.left + first.size[0]), max(height, first.top + first.size[1]))
    # Many files have no trailer, or end with zeros, so they are not broken. All bytes after the trailer are ignored.
    after = _NOT_ZERO.search(data, position)
    broken = after is not None and after[0] != b";"
    return Gif(canvas, palette, tuple(frames), loops, broken)


def read(data: bytes) -> Picture:
    """Decode the frames of a GIF and compose them.

    Raises ValueError if bytes that are not a block follow the last frame. Also raises the errors of `parse`.
    """
    gif = parse(data)
    if gif.broken:
        raise ValueError(f"unknown bytes follow frame {len(gif.frames)}")
    if len(gif.frames) == 1 and gif.frames[0].size == gif.size:
        return next(_layers(gif, data)).picture  # composing would take three times the memory for the same result
    return compose(gif.size, _layers(gif, data), gif.loops)


def _layers(gif: Gif, data: bytes) -> Iterator[Layer]:
    for frame in gif.frames:
        header = b"GIF89a" + struct.pack("<HH", *frame.size) + gif.palette
        # Keep only bit 0 of the flags, which declares a transparent colour. `Layer` holds the disposal.
        control = b"!\xf9\4" + bytes([frame.control[0] & 1]) + frame.control[1:] + b"\0"
        still = header + control + b"," + struct.pack("<HHHH", 0, 0, *frame.size) + data[frame.body] + b";"
        with Image.open(io.BytesIO(still), formats=["GIF"]) as image:
            image.load()
            picture = normalise(image, None)
        disposal = _DISPOSALS.get(frame.control[0] >> 2 & 7, Disposal.KEEP)
        delay = int.from_bytes(frame.control[1:3], "little") * 10
        yield Layer(picture, frame.left, frame.top, disposal=disposal, duration=delay)


def _palette_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _blocks(data: bytes, position: int) -> Iterator[tuple[int, int]]:
    """Yield the start and the end of each frame and each extension. Stop at any other byte, such as the trailer.

    Raises CorruptImage if there are too many extensions or blocks.
    """
    extensions, blocks_left = 0, _MAX_BLOCKS
    while position < len(data) and data[position] in (_IMAGE, _EXTENSION):
        if data[position] == _IMAGE:
            if position + 10 > len(data):
                return
            chain = position + 11 + _palette_bytes(data[position + 9])
        else:
            chain = position + 2
            extensions += 1
            if extensions > _MAX_EXTENSIONS:
                raise _too_many(_MAX_EXTENSIONS, "extensions")
        end, blocks_left = _end_of_chain(data, chain, blocks_left)
        yield position, end
        position = end


def _end_of_chain(data: bytes, position: int, blocks_left: int) -> tuple[int, int]:
    """Return the end of the chain of blocks that begins at `position`, and how many more blocks the limit allows.

    Each block begins with its length; a length of 0 ends the chain.
    """
    while position < len(data) and data[position]:
        position += data[position] + 1
        blocks_left -= 1
        if blocks_left < 0:
            raise _too_many(_MAX_BLOCKS, "blocks")
    return min(position + 1, len(data)), blocks_left


def _too_many(limit: int, what: str) -> CorruptImage:
    return CorruptImage(
        f"The GIF has more than {limit:,} {what}, which no picture needs. "
        "Open the file in an image editor and export it again."
    )
